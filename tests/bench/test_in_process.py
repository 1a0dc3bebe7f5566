"""A version's file without a server, through the served backend's own sessions."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resx.bench.in_process import InProcessRun, _Job, _measure, _summary, measure_in_process
from resx.bench.load.payloads import canaries
from resx.card.card import Card
from resx.errors import MissingCapability, ResxError, UsageError
from resx.gpus import find_gpus
from resx.machine import usable_cores
from resx.repository.versions import Published, Repository
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.serving.embedded.backend_session import load_session, served_config
from resx.serving.embedded.backends.config_values import num_instances
from tests.support.backend_alone import rows
from tests.support.cards import engine_facts
from tests.support.fake_gpu import FakeCuda, FakeTensorRT, sum_and_half
from tests.support.tiny_models import publish_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, Published]:
    return publish_tiny(Repository(tmp_path_factory.mktemp("in_process") / "model_repository"), "tiny")


def run(tiny: tuple[Card, Published], batch_size: int = 4, **changes: Any) -> InProcessRun:
    card, published = tiny
    arguments = {"instances": 0, "threads": 0, "duration_s": 0.3, "tensors": canaries(card, batch_size).tensors}
    return measure_in_process(published.folder, card, batch_size, **(arguments | changes))


def test_the_answers_are_those_of_the_file(tiny: tuple[Card, Published]) -> None:
    card, published = tiny
    tensors = canaries(card, 4).tensors

    found = run(tiny)

    model = OnnxRuntimeModel(published.folder / "model.onnx", threads=1)
    assert len(found.logits) == len(tensors)
    for tensor, logits in zip(tensors, found.logits, strict=True):
        np.testing.assert_allclose(logits, model(tensor), atol=1e-4)


def test_it_computes_what_the_card_records(tiny: tuple[Card, Published]) -> None:
    card, _ = tiny
    payloads = canaries(card, 2)

    found = run(tiny, 2)

    for logits, expected in zip(found.logits, payloads.expected, strict=True):
        scale = np.abs(expected).max()
        assert np.abs(logits - expected).max() <= card.canary.tolerance * scale


def test_batches_are_counted(tiny: tuple[Card, Published]) -> None:
    found = run(tiny, threads=1, instances=1)

    assert found.num_batches > 10
    assert (found.batch_size, found.threads, found.instances) == (4, 1, 1)


def test_throughput_is_the_sum_of_the_instances_own() -> None:
    job = _Job(path="", config={}, instances=2, duration_s=1.0, tensors=(np.zeros((4, 1)),))
    ms = 1_000_000
    # 3 batches in 30 ms, and 2 in 40 ms.
    times = [[0, 9 * ms, 18 * ms, 30 * ms], [5 * ms, 25 * ms, 45 * ms]]

    found = _summary(job, times, 1, [])

    assert found.images_per_s == pytest.approx(4 * (3 / 0.030 + 2 / 0.040))
    assert (found.num_batches, found.p50_ms) == (5, 12.0)
    assert found.compared(300.0).efficiency == pytest.approx(0.5)


def test_instances_and_threads_come_from_the_configuration(tiny: tuple[Card, Published]) -> None:
    _, published = tiny
    config = published.folder.parent / "config.pbtxt"
    before = config.read_text()
    config.write_text(before.replace("count: 1", "count: 2"))
    try:
        assert num_instances(served_config(published.folder.parent)) == 2
        found = run(tiny)
    finally:
        config.write_text(before)

    assert (found.instances, found.threads) == (2, max(1, usable_cores() // 2))


def test_without_a_count_one_instance_takes_the_cores(tiny: tuple[Card, Published]) -> None:
    found = run(tiny)

    assert (found.instances, found.threads) == (1, usable_cores())


def test_no_process_is_left(tiny: tuple[Card, Published]) -> None:
    run(tiny)

    assert not [child for child in multiprocessing.active_children() if child.name == "resx-in-process"]


def test_an_option_that_the_server_refuses_is_refused_here_too(tiny: tuple[Card, Published]) -> None:
    _, published = tiny
    config = published.folder.parent / "config.pbtxt"
    before = config.read_text()
    config.write_text(before + "optimization { graph { level: 7 } }\n")
    try:
        with pytest.raises(ResxError, match=r"optimization\.graph\.level: 7"):
            run(tiny)
    finally:
        config.write_text(before)


def test_a_broken_file_gives_onnxruntimes_reason(tiny: tuple[Card, Published], tmp_path: Path) -> None:
    card, _ = tiny
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"no model")

    with pytest.raises(ResxError, match="tiny: onnxruntime in process: .*(INVALID|parsing)"):
        measure_in_process(
            tmp_path / "1", card, 1, instances=1, threads=1, duration_s=0.1, tensors=canaries(card, 1).tensors
        )


def test_an_engine_is_refused_where_it_cannot_be_opened(tiny: tuple[Card, Published]) -> None:
    if find_gpus().count:
        pytest.skip("there is a GPU")
    card, published = tiny
    engine = engine_facts(version="10.12")

    config = published.folder.parent / "config.pbtxt"
    before = config.read_text()
    config.write_text(before.replace("onnxruntime", "tensorrt"))
    try:
        with pytest.raises(
            MissingCapability, match="a TensorRT plan needs an NVIDIA GPU and the package tensorrt 10.12"
        ):
            run((card.model_copy(update={"engine": engine}), published))
    finally:
        config.write_text(before)


def test_an_engine_runs_as_its_backend_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and over a GPU that is passed in, as there need not be one."""
    backend = load_session("tensorrt")
    engine = sum_and_half(FakeCuda(), (1, 2, 2))
    monkeypatch.setattr(backend, "load_package", lambda _config: FakeTensorRT(engine))
    monkeypatch.setattr(backend.cuda_driver, "load_driver", lambda: backend.cuda_driver.Driver(engine.cuda))
    (tmp_path / "model.plan").write_bytes(b"a plan")
    job = _Job(
        path=str(tmp_path / "model.plan"),
        config={"backend": "tensorrt", "max_batch_size": 4},
        instances=1,
        duration_s=0.05,
        tensors=(rows(1, 2, 3, 4), rows(5, 6, 7, 8)),
        device="gpu",
        backend="tensorrt",
    )
    found = _measure(job)
    assert [answer.ravel().tolist() for answer in found.logits] == [[2, 4, 6, 8], [10, 12, 14, 16]]
    assert (found.batch_size, found.instances, found.threads) == (4, 1, 1)
    assert {run["x"] for run in engine.runs} == {(2, 2)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_size": 5}, "takes 1 to 4"),
        ({"batch_size": 2, "tensors": ()}, "no tensors"),
        ({"batch_size": 2, "tensors": (np.zeros((1, 3, 16, 16), np.uint8),)}, r"takes \[2, 3, 16, 16\]"),
        ({"duration_s": 0.0}, "above 0 s"),
        ({"threads": -1}, "0 for what is served"),
    ],
)
def test_what_cannot_be_run_is_refused(tiny: tuple[Card, Published], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        run(tiny, **changes)
