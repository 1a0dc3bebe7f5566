"""What an engine needs where it is served, by what is said to be there: no GPU is needed."""

from pathlib import Path
from typing import Any

import pytest

from resx.card.card import Card
from resx.errors import MissingCapability
from resx.gpus import Gpus
from resx.serving.embedded.engine_runtime import engine_backend, installed_version, require_engine_runtime
from tests.support.cards import plan
from tests.support.triton_by_hand import triton_by_hand

NO_DRIVER = Gpus(count=0, missing="no NVIDIA driver is installed")
ONE = Gpus(count=1)


def model(folder: Path, config: str = 'backend: "tensorrt"') -> Path:
    (folder / "p" / "1").mkdir(parents=True)
    (folder / "p" / "config.pbtxt").write_text(config)
    return folder / "p"


def check(folder: Path, card: Card | None, *, gpus: Gpus, installed: str | None, **options: Any) -> None:
    require_engine_runtime(
        folder,
        card,
        gpus=lambda: gpus,
        installed=lambda _package: installed,
        **{"embedded": True, "device": None} | options,
    )


@pytest.mark.parametrize(
    ("config", "backend"),
    [
        ('backend: "tensorrt"', "tensorrt"), ('platform: "tensorrt_plan"', "tensorrt"),
        ('backend: "tensorrt_rtx"', "tensorrt_rtx"), ('backend: "onnxruntime"', ""), ('backend: "tensorrtllm"', ""),
        ('platform: "onnxruntime_onnx"', ""), ("not a configuration", ""),
    ],
)  # fmt: skip
def test_an_engine_is_told_by_its_configuration(tmp_path: Path, config: str, backend: str) -> None:
    assert engine_backend(model(tmp_path, config)) == backend
    assert engine_backend(tmp_path / "absent") == ""


@pytest.mark.parametrize("installed", ["11.4.0", "11.4.0.106", ""])
def test_an_engine_is_served_where_gpu_and_package_are(tmp_path: Path, installed: str) -> None:
    check(model(tmp_path), plan(), gpus=ONE, installed=installed)


def test_an_onnx_file_needs_neither(tmp_path: Path) -> None:
    check(model(tmp_path, 'backend: "onnxruntime"'), None, gpus=NO_DRIVER, installed=None, device="cpu")


@pytest.mark.parametrize(
    ("gpus", "installed", "options", "reasons"),
    [
        (NO_DRIVER, "11.4.0", {}, ["no NVIDIA driver is installed"]),
        (ONE, None, {}, ["tensorrt is not installed (pip install 'resx[gpu]')"]),
        (NO_DRIVER, None, {}, ["no NVIDIA driver is installed", "tensorrt is not installed (pip install 'resx[gpu]')"]),
        (ONE, "11.4.0", {"device": "cpu"}, ["the server runs on the CPU (--device cpu)"]),
        (
            ONE, "11.3.2", {},
            ["tensorrt 11.3.2 is installed, which cannot open it (install 11.4.0, or export it again here)"],
        ),
        (
            ONE, "1.4", {},
            ["tensorrt 1.4 is installed, which cannot open it (install 11.4.0, or export it again here)"],
        ),
    ],
)  # fmt: skip
def test_all_that_is_missing_is_said_in_one_line(
    tmp_path: Path, gpus: Gpus, installed: str | None, options: dict[str, Any], reasons: list[str]
) -> None:
    with pytest.raises(MissingCapability) as caught:
        check(model(tmp_path), plan(), gpus=gpus, installed=installed, **options)
    assert str(caught.value) == (
        f"p: a TensorRT plan needs an NVIDIA GPU and the package tensorrt 11.4.0: {'; '.join(reasons)}; serve it on a "
        "machine with both, or with NVIDIA's container (docker compose --profile gpu up)"
    )


def test_a_model_without_a_card_is_checked_but_for_the_version(tmp_path: Path) -> None:
    folder = model(tmp_path, 'platform: "tensorrt_plan"')
    check(folder, None, gpus=ONE, installed="10.0")
    with pytest.raises(MissingCapability, match="the package tensorrt: no NVIDIA driver"):
        check(folder, None, gpus=NO_DRIVER, installed="10.0")


def test_nvidias_container_serves_plans_by_itself_and_no_engines_of_tensorrt_for_rtx(tmp_path: Path) -> None:
    check(model(tmp_path / "a"), plan(), gpus=NO_DRIVER, installed=None, embedded=False)
    with pytest.raises(MissingCapability, match="for which NVIDIA's Triton has no backend; serve it with `resx serve`"):
        check(model(tmp_path / "b", 'backend: "tensorrt_rtx"'), None, gpus=ONE, installed="1.7", embedded=False)


def test_a_packages_version_is_the_one_that_it_tells_itself() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert installed_version("tensorrt_rtx") == trt.__version__


@pytest.mark.triton
@pytest.mark.parametrize("native", [False, True])
def test_the_embedded_server_has_a_backend_for_engines(tmp_path: Path, native: bool) -> None:
    """As far as it goes without a GPU: Triton starts the backend for the file, and the backend refuses the CPU."""
    from resx.serving.embedded.installation.triton_installation import install

    tensors = 'input { name: "x" data_type: TYPE_FP32 dims: [2] } output { name: "y" data_type: TYPE_FP32 dims: [2] }'
    for name, line in (("p", 'platform: "tensorrt_plan"'), ("r", 'backend: "tensorrt_rtx"')):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(f"{line} {tensors} instance_group {{ kind: KIND_CPU }}")
        (tmp_path / name / "1" / ("model.plan" if name == "p" else "model.engine")).write_bytes(b"an engine")
    log = tmp_path.parent / f"{tmp_path.name}.log"
    with triton_by_hand(tmp_path, "none", log, install(native=native)):
        pass
    text = log.read_text(errors="replace")
    for name in ("p", "r"):
        assert f"failed to load '{name}' version 1: Internal: ValueError: an instance of KIND_CPU" in text
