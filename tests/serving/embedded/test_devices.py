"""What the embedded server computes on, by what is said to be there: no GPU is needed."""

from pathlib import Path

import pytest

from resx.errors import MissingCapability
from resx.gpus import DRIVER, Device, Gpus, Wish, find_gpus
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.rollback import undeploy
from resx.serving.embedded.devices import choose_device, find_replanned, missing_for_cuda
from resx.serving.embedded.installation.triton_installation import Installation, install, process_environment
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

NO_DRIVER = Gpus(count=0, missing=f"no NVIDIA driver is installed ({DRIVER} is missing)")


def unasked() -> str:
    raise AssertionError("CUDA is not tried where it is not wanted")


@pytest.mark.parametrize(
    ("wish", "gpus", "device"),
    [("auto", NO_DRIVER, "cpu"), ("cpu", NO_DRIVER, "cpu"), ("cpu", Gpus(count=2), "cpu")],
)
def test_the_cpu_is_taken_where_no_gpu_is_or_where_it_is_asked_for(wish: Wish, gpus: Gpus, device: Device) -> None:
    assert choose_device(wish, gpus=lambda: gpus, cuda=unasked) == device


@pytest.mark.parametrize("wish", ["auto", "gpu"])
def test_a_gpu_that_can_be_used_is_taken(wish: Wish) -> None:
    assert choose_device(wish, gpus=lambda: Gpus(count=1), cuda=lambda: "") == "gpu"


@pytest.mark.parametrize("wish", ["auto", "gpu"])
@pytest.mark.parametrize("reason", ["libcudnn.so.9: cannot open shared object file", "onnxruntime is not installed"])
def test_a_gpu_that_cannot_be_used_is_never_passed_over_in_silence(wish: Wish, reason: str) -> None:
    with pytest.raises(MissingCapability, match=f"1 GPU is here, but cannot be used: {reason}; .*--device cpu"):
        choose_device(wish, gpus=lambda: Gpus(count=1), cuda=lambda: reason)


def test_a_gpu_that_is_asked_for_and_is_not_there_is_named_with_what_it_needs() -> None:
    with pytest.raises(
        MissingCapability, match=r"--device gpu: no NVIDIA driver .*CUDA 13 and cuDNN 9; use --device cpu"
    ):
        choose_device("gpu", gpus=lambda: NO_DRIVER, cuda=unasked)


@pytest.mark.parametrize(
    ("config", "is_replanned"),
    [
        ("max_batch_size: 32 instance_group { count: 1 }", True),
        ("max_batch_size: 1", False),
        ("max_batch_size: 32 instance_group { kind: KIND_CPU }", False),
        ("max_batch_size: 32 instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU }", True),
        ("max_batch_size: 32 optimization { execution_accelerators { gpu_execution_accelerator { %s } } }", False),
    ],
)
def test_models_are_named_that_one_session_on_a_gpu_plans_again(
    tmp_path: Path, config: str, is_replanned: bool
) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.pbtxt").write_text('backend: "onnxruntime" ' + config.replace("%s", 'name: "tensorrt"'))
    assert find_replanned([model], "auto", gpus=lambda: Gpus(count=1)) == (["m"] if is_replanned else [])
    assert find_replanned([model], "cpu", gpus=lambda: Gpus(count=1)) == []
    assert find_replanned([model], "auto", gpus=lambda: NO_DRIVER) == []


def test_this_machine_is_asked() -> None:
    found = find_gpus()
    assert (found.count == 0) == bool(found.missing)


def test_a_provider_is_tried_by_a_session_that_uses_it() -> None:
    assert missing_for_cuda("CPUExecutionProvider") == ""
    if find_gpus().missing:
        assert missing_for_cuda() != ""


@pytest.mark.triton
def test_a_server_for_the_cpu_sees_no_gpu() -> None:
    installation = install(wish="cpu")
    assert process_environment(installation)["CUDA_VISIBLE_DEVICES"] == "-1"
    on_gpu = Installation(
        server=installation.server,
        backends=installation.backends,
        libraries=installation.libraries,
        caches=installation.caches,
        device="gpu",
    )
    assert process_environment(on_gpu).get("CUDA_VISIBLE_DEVICES") != "-1"


@pytest.mark.triton
def test_a_model_for_a_gpu_by_name_is_not_deployed_on_a_server_for_the_cpu(triton: RunningTriton) -> None:
    if triton.state.device == "gpu":
        pytest.skip("the server has a GPU")
    publish_tiny(triton.repository, "for_gpu")
    config = triton.repository.root / "for_gpu" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 1 kind: KIND_GPU"))
    with triton.client() as client:
        with pytest.raises(MissingCapability, match="for_gpu: config.pbtxt asks for KIND_GPU, .*; write KIND_AUTO"):
            deploy(client, triton.repository, "for_gpu")
        config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
        assert deploy(client, triton.repository, "for_gpu").version == 1
        undeploy(client, triton.repository, "for_gpu")
