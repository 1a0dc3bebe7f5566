"""A release as pods are to run it: what is read of it, what cannot start, and how templates are filled in."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.card.card import FILE_NAME, Card
from resx.errors import ParityError, ResxError, UsageError
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.serving.client.address import parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import LOOPBACK
from resx.serving.clusters import memory
from resx.serving.clusters.kustomization import write_folder
from resx.serving.clusters.release import SUMS, Release, read_release
from resx.serving.clusters.workload import Placement, workload_of
from resx.serving.embedded import server_ports
from resx.serving.embedded.installation import triton_installation
from tests.support.tiny_models import publish_tiny

NAME = "small"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("clusters") / "model_repository")
    publish_tiny(repository, NAME, image_endpoint=True)
    return repository


@pytest.fixture
def repository(published: Repository, tmp_path: Path) -> Repository:
    """A copy that a test may spoil."""
    shutil.copytree(published.root, tmp_path / "model_repository")
    return Repository(tmp_path / "model_repository")


ALONE = Placement(image_endpoint=False)
OWN_IMAGE = Placement(image="r.example.com/triton-with-pillow:1")


def edit(repository: Repository, before: str, after: str, name: str = NAME) -> None:
    config = repository.root / name / CONFIG_FILE
    assert before in config.read_text()
    config.write_text(config.read_text().replace(before, after))


def change_card(repository: Repository, change: Callable[[Card], Card]) -> None:
    path = repository.root / NAME / "1" / FILE_NAME
    path.write_text(change(repository.card(NAME)).model_dump_json())


REFUSED = [
        ('name: "small"', 'name: "other"', "name other"),
        ('backend: "onnxruntime"', 'backend: "onnx"', "backend onnx"),
        ('backend: "onnxruntime"', 'backend: "tensorrt"', "backend tensorrt"),
        ('backend: "onnxruntime"', 'backend: "openvino"', "default_model_filename"),
        ("max_batch_size: 4", "max_batch_size: -1", "max_batch_size -1"),
        ("max_batch_size: 4", "max_batch_size: 2", "model_warmup"),
        ("TYPE_UINT8", "TYPE_FP32", "TYPE_FP32"),
        ("dims: [10]", "dims: [11]", "[11]"),
        ("dims: [10]", "dims: [0]", "dims [0]"),
        ('name: "image"', 'name: "pixels"', "no input image"),
        ('"labels.txt"', '"classes.txt"', "label_filename classes.txt: no such file"),
        ("dynamic_batching {", "dynamic_batching { preferred_batch_size: [8]", "preferred_batch_size 8"),
        ("dynamic_batching {", "dynamic_batching { priority_levels: 2", "default_priority_level"),
        ("count: 1", "count: 1 kind: KIND_GPU", "give --gpu"),
        ("count: 1", "count: 1 gpus: [0]", "give --gpu"),
        ("count: 1", "count: 1 kind: KIND_CPU gpus: [0]", "KIND_CPU with gpus"),
        ("version_policy", 'parameters { key: "intra_op_thread_count" value { string_value: "two" } }\nversion_policy',
         "intra_op_thread_count"),
        ("version_policy", 'parameters { key: "intra_op_thread_count" value { string_value: "-1" } }\nversion_policy',
         "intra_op_thread_count"),
        ("max_batch_size: 4", "max_batch_sise: 4", CONFIG_FILE),
    ]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "words"), REFUSED)
def test_a_configuration_that_triton_would_refuse_is_not_rendered(
    repository: Repository, before: str, after: str, words: str
) -> None:
    edit(repository, before, after)
    with pytest.raises(UsageError) as caught:
        workload_of(repository, NAME, ALONE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


NOT_ASKED = ("[11]", "TYPE_FP32", "model_warmup")
"""What a file's widths and types are, only NVIDIA's onnxruntime backend compares at load. And 2.51 may crash on a
warm-up that fails, so the models are tried without."""


@pytest.mark.triton
def test_what_is_not_rendered_is_what_a_real_triton_refuses(published: Repository, tmp_path: Path) -> None:
    if reason := triton_installation.missing_for_install():
        pytest.skip(reason)
    root, rows = tmp_path / "models", [row for row in REFUSED if row[2] not in NOT_ASKED]
    for index, (before, after, _) in enumerate([("", "", ""), *rows]):
        shutil.copytree(published.root / NAME, root / f"m{index}")
        config = root / f"m{index}" / CONFIG_FILE
        text = re.sub(r"model_warmup \{\n.*?\n\}\n", "", config.read_text(), flags=re.DOTALL)
        assert before in text
        text = text.replace(before, after) if before else text
        config.write_text(text.replace('name: "small"', f'name: "m{index}"'))
    assert ready_models(root, tmp_path) == ["m0"]


def ready_models(root: Path, folder: Path) -> list[str]:
    """Return what a server that loads all that it finds has loaded when it is up."""
    installation, ports = triton_installation.install(), server_ports.Ports(http=0, grpc=0, metrics=0).resolved()
    command = [
        str(installation.server), f"--model-repository={root}", f"--backend-directory={installation.backends}",
        f"--backend-config=python,shm-region-prefix-name=resx-{os.getpid()}-clusters-", "--exit-on-error=false",
        f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}",
        *(f"--{protocol}-address={LOOPBACK}" for protocol in ("http", "grpc", "metrics")),
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=triton_installation.process_environment(installation)
        )
    try:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            with contextlib.suppress(ResxError):
                address = parse_address(f"{LOOPBACK}:{ports.grpc}", "grpc")
                with TritonClient(address) as client:
                    return sorted(client.model_versions())
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.5)
        raise AssertionError("no answer")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("count: 1", "count: 1 kind: KIND_CPU", "remove --gpu"),
        ("count: 1", "count: 1 kind: KIND_GPU gpus: [1]", "a pod has GPU 0 only"),
        ('backend: "onnxruntime"', 'backend: "openvino"\ndefault_model_filename: "model.onnx"', "remove --gpu"),
    ],
)
def test_a_configuration_for_another_device_is_not_rendered_with_a_gpu(
    repository: Repository, before: str, after: str, words: str
) -> None:
    edit(repository, before, after)
    with pytest.raises(UsageError, match=words):
        workload_of(repository, NAME, Placement(gpu=True, image_endpoint=False))


def test_other_settings_are_rendered(repository: Repository) -> None:
    edit(repository, 'backend: "onnxruntime"', "")
    workload_of(repository, NAME, ALONE)
    edit(repository, "max_batch_size: 4", 'backend: "onnxruntime"\nmax_batch_size: 4')
    edit(repository, "count: 1", "count: 2 kind: KIND_CPU")
    edit(
        repository, "dynamic_batching {", "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 9"
    )
    assert workload_of(repository, NAME, ALONE)[0].cpus == 4
    edit(repository, 'backend: "onnxruntime"', 'backend: "openvino"\ndefault_model_filename: "model.onnx"')
    workload_of(repository, NAME, ALONE)


def test_an_endpoint_that_would_not_load_is_not_rendered(repository: Repository) -> None:
    workload_of(repository, NAME, OWN_IMAGE)
    edit(repository, 'model_name: "small_preprocess"', 'model_name: "gone"', "small_image")
    with pytest.raises(UsageError, match="no model gone"):
        workload_of(repository, NAME, OWN_IMAGE)
    edit(repository, 'model_name: "gone"', 'model_name: "small_preprocess"', "small_image")
    (repository.root / "small_preprocess/1/model.py").unlink()
    with pytest.raises(UsageError, match=r"model\.py is missing"):
        workload_of(repository, NAME, OWN_IMAGE)


def test_the_cpus_form_of_int8_is_not_put_on_a_gpu(repository: Repository) -> None:
    change_card(repository, lambda card: card.model_copy(update={"precision": "int8", "target": "cpu"}))
    workload_of(repository, NAME, ALONE)
    with pytest.raises(UsageError, match="--gpu: .* int8 quantized for CPUs"):
        workload_of(repository, NAME, Placement(gpu=True, image_endpoint=False))


def test_a_file_that_is_not_the_verified_one_is_not_rendered(repository: Repository) -> None:
    file = repository.root / NAME / "1" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ParityError, match="not the file that was verified"):
        workload_of(repository, NAME, ALONE)


def release(repository: Repository, *endpoints: str) -> Release:
    return read_release(repository, NAME, 1, repository.card(NAME, 1), endpoints)


def test_a_releases_name_follows_all_that_is_in_it(repository: Repository) -> None:
    first = release(repository)
    assert release(repository) == first
    names = {first.name, release(repository, "small_image").name}
    for before, after in (("count: 1", "count: 2"), ("max_queue_size: 32", "max_queue_size: 8")):
        edit(repository, before, after)
        names.add(release(repository).name)
    (repository.root / NAME / "labels.txt").write_text("\n".join(f"other {index}" for index in range(10)) + "\n")
    names.add(release(repository).name)
    assert len(names) == 5
    publish_tiny(repository, NAME, seed=1, image_endpoint=True)
    assert release(repository).files.keys() == first.files.keys(), "a later version changes nothing"


def test_a_release_has_no_empty_folder_which_a_bucket_would_lose(repository: Repository) -> None:
    files = release(repository, "small_preprocess", "small_image").files
    assert any(path.startswith("small_image/1/") for path in files)
    sums = files[SUMS]
    assert isinstance(sums, bytes)
    assert len(sums.splitlines()) == len(files) - 1


def test_memory_follows_what_the_file_takes_and_its_instances(repository: Repository) -> None:
    card, file = repository.card(NAME), repository.root / NAME / "1" / "model.onnx"
    measured, remark = memory.memory_of(card, file, batch=4, threads=1)
    assert remark == ""
    wide = card.model_copy(update={"max_batch_size": 1024})
    large, _ = memory.memory_of(wide, file, batch=1024, threads=1)
    assert large >= measured + 1024 * 8 * 16 * 16 * 4 // 2**20, "a block's output is held"
    one, _ = workload_of(repository, NAME, ALONE)
    edit(repository, "count: 1", "count: 3")
    three, _ = workload_of(repository, NAME, ALONE)
    assert three.instances_mib > one.instances_mib
    assert workload_of(repository, NAME, Placement(gpu=True, image_endpoint=False))[0].memory_mib > three.memory_mib


def test_memory_that_cannot_be_measured_is_an_estimate_and_says_so(repository: Repository, tmp_path: Path) -> None:
    spoilt = tmp_path / "model.onnx"
    spoilt.write_bytes(b"no model")
    mib, remark = memory.memory_of(repository.card(NAME), spoilt, batch=1, threads=1)
    assert mib > 0
    assert "estimate" in remark
    assert "\n" not in remark


def test_memory_is_measured_in_the_runtime_that_serves_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny", runtime="openvino")
    card, file = repository.card("tiny", 1), repository.root / "tiny" / "1" / "model.onnx"
    openvino, remark = memory.memory_of(card, file, batch=1, threads=1)
    assert remark == ""
    of_onnxruntime = card.model_copy(update={"runtime": None})
    assert memory.memory_of(of_onnxruntime, file, batch=1, threads=1)[0] != openvino

    monkeypatch.setattr(memory, "find_spec", lambda package: None if package == "openvino" else object())
    _, remark = memory.memory_of(card, file, batch=1, threads=1)
    assert "openvino is not installed here; install the extra openvino" in remark
    assert memory.memory_of(of_onnxruntime, file, batch=1, threads=1)[1] == ""


def test_a_batch_above_the_exported_one_is_scaled_and_not_tried(repository: Repository) -> None:
    card, file = repository.card(NAME), repository.root / NAME / "1" / "model.onnx"
    enormous, remark = memory.memory_of(card, file, batch=65_536, threads=1)
    assert remark == ""
    assert enormous > 65_536 * 3 * 16 * 16 // 2**20


def test_an_image_of_ones_own_is_told_what_an_endpoint_needs(repository: Repository) -> None:
    assert any("Pillow" in remark for remark in workload_of(repository, NAME, OWN_IMAGE)[1])


def test_threads_that_are_left_to_the_server_are_remarked_on(repository: Repository) -> None:
    _, remarks = workload_of(repository, NAME, ALONE)
    assert [remark.partition(":")[0] for remark in remarks] == [NAME]
    assert workload_of(repository, NAME, Placement(gpu=True, image_endpoint=False))[1] == ()


def test_a_folder_that_cannot_be_written_whole_is_not_left_there(repository: Repository, tmp_path: Path) -> None:
    good = release(repository)
    gone = Release(name=good.name, sha256=good.sha256, size_bytes=0, files={"a/1/model.onnx": tmp_path / "gone"})
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty"):
        with pytest.raises(UsageError, match=str(folder)):
            write_folder(folder, {"deployment.yaml": ""}, gone)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []
