"""The backends for the CPU without a server: what a client can do only with luck, such as cancelling in time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resx.bench.tuning.setting_space import SPINS_US
from resx.serving.embedded.backend_session import load_session
from resx.serving.embedded.backends.config_values import (
    CORES_VARIABLE,
    ERRORS_ALONE,
    MAX_SPIN_US,
    SILENT,
    SPIN_DURATION,
    SPIN_US,
    SPINNING,
    Host,
    num_instances,
    server_host,
)
from tests.support import onnx_files
from tests.support.backend_alone import BACKENDS, Error, Request, load_backend, parameters, rows, send

HOST = Host(cores=2, log_severity=SILENT)
session_settings = load_session().session_settings
session_options, run_options = session_settings.session_options, session_settings.run_options
spin_entries, BOUNDED_SINCE = session_settings.spin_entries, session_settings.BOUNDED_SINCE


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip(request.param)
    return load_backend(monkeypatch, BACKENDS / request.param / "model.py")


def instance(backend: ModuleType, folder: Path, *, max_batch_size: int = 8) -> Any:
    onnx_files.sum_and_half(folder / "1" / "model.onnx")
    config = {
        "default_model_filename": "model.onnx",
        "max_batch_size": max_batch_size,
        "input": [{"name": "x"}],
        "output": [{"name": "total"}, {"name": "half"}],
    }
    model = backend.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"})
    return model


def counting_runs(model: Any) -> list[dict[str, np.ndarray]]:
    """Record what reaches onnxruntime."""
    seen: list[dict[str, np.ndarray]] = []
    run = model.run

    def record(names: list[str], inputs: dict[str, np.ndarray], options: object) -> list[np.ndarray]:
        seen.append(inputs)
        return list(run(names, inputs, options))

    model.run = record
    return seen


def test_a_cancelled_request_is_skipped_and_its_neighbours_are_not(backend: ModuleType, tmp_path: Path) -> None:
    model = instance(backend, tmp_path)
    seen = counting_runs(model)
    model.last_run_s = 2 * backend.file_model.request_batches.WORTH_ASKING_S
    cancelled, answered = model.execute([Request(x=rows(1), cancelled=True), Request(x=rows(2))])
    assert cancelled.error.code == Error.CANCELLED
    assert answered.tensors["half"].tolist() == [[1, 1]]
    assert [len(inputs["x"]) for inputs in seen] == [1]


def test_lone_requests_are_answered_by_one_response_after_the_other_of_the_same_memory(
    backend: ModuleType, tmp_path: Path
) -> None:
    model = instance(backend, tmp_path)
    responses = []
    for row in range(1, 5):
        responses += model.execute([Request(x=rows(row))])
        answer = send(responses[-1])
        assert (answer["total"].tolist(), answer["half"].tolist()) == ([2 * row], [[row / 2] * 2])
    assert [one is responses[0] for one in responses] == [True] * 4


@pytest.mark.parametrize(
    "other",
    [Request(x=rows(5, 6)), Request(x=rows(5, width=3)), Request(x=rows(5), outputs=("half",))],
    ids=["more rows", "another shape", "another output"],
)
def test_a_response_that_fits_no_longer_is_made_anew(backend: ModuleType, tmp_path: Path, other: Request) -> None:
    model = instance(backend, tmp_path)
    responses, answers = [], []
    for request in (Request(x=rows(1)), other, Request(x=rows(2)), Request(x=rows(3))):
        responses += model.execute([request])
        answers.append(send(responses[-1]))
    assert answers[1].keys() == set(other.outputs)
    assert np.array_equal(answers[1]["half"], other.inputs["x"] / 2)
    assert [answer["half"].tolist() for answer in answers[2:]] == [[[1, 1]], [[1.5, 1.5]]]
    assert [one is responses[2] for one in responses] == [False, False, True, True]


@pytest.mark.parametrize("why", ["not sent", "too large", "in a batch"])
def test_a_response_is_not_used_again_where_its_memory_is_not_the_servers_alone(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A stub that leaves tensors where they are, or a failure before it sent them; many MB for one response."""
    model = instance(backend, tmp_path)
    if why == "too large":
        monkeypatch.setattr(backend.file_model.request_batches.shared_tensors, "MOST_KEPT_BYTES", 11)
    found = []
    for row in range(1, 5):
        responses = model.execute([Request(x=rows(row))] * (1 + (why == "in a batch")))
        found += responses
        if why != "not sent":
            send(responses[0])
    assert len({id(response) for response in found}) == len(found)
    assert [one.tensors["half"][0, 0] for one in found] == sorted([0.5, 1, 1.5, 2] * (1 + (why == "in a batch")))


def test_nobody_is_asked_whether_a_quick_run_is_still_wanted(backend: ModuleType, tmp_path: Path) -> None:
    """The answer takes longer than the run: see the backend's module docstring."""
    model = instance(backend, tmp_path)
    (answer,) = model.execute([Request(x=rows(1), cancelled=True)])
    assert answer.tensors["half"].tolist() == [[0.5, 0.5]]


def test_how_long_a_run_takes_counts_for_each_of_its_requests(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question costs the same for each, so a batch of quick requests is not worth eight of them."""
    worth_s = backend.file_model.request_batches.WORTH_ASKING_S
    ticks = iter([0.0, 3 * worth_s, 4 * worth_s, 6 * worth_s, 6 * worth_s])
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(backend.file_model.request_batches, "time", clock)
    model = instance(backend, tmp_path)
    model.execute([Request(x=rows(row)) for row in range(4)])
    assert model.last_run_s == pytest.approx(0.75 * worth_s)
    (answer,) = model.execute([Request(x=rows(1), cancelled=True)])
    assert (answer.error, model.last_run_s) == (None, pytest.approx(2 * worth_s))
    (refused,) = model.execute([Request(x=rows(1), cancelled=True)])
    assert refused.error.code == Error.CANCELLED


@pytest.mark.parametrize("num_requests", [1, 2])
def test_an_answer_without_a_row_for_each_that_was_asked_is_refused(
    backend: ModuleType, tmp_path: Path, num_requests: int
) -> None:
    model = instance(backend, tmp_path)
    run = model.run
    model.run = lambda names, inputs, options: [result[:1] for result in run(names, inputs, options)]
    for answer in model.execute([Request(x=rows(1, 2))] * num_requests):
        assert answer.error.code == Error.INVALID_ARG
        assert answer.error.message.startswith("ValueError: output 'total' of shape [1] for 2 rows of input")


def test_a_request_that_fills_the_batch_is_not_copied(backend: ModuleType, tmp_path: Path) -> None:
    model = instance(backend, tmp_path)
    seen = counting_runs(model)
    sent = rows(*range(8))
    model.execute([Request(x=sent)])
    assert np.shares_memory(seen[0]["x"], sent)


def test_requests_of_one_shape_are_one_run_and_of_another_shape_another(backend: ModuleType, tmp_path: Path) -> None:
    model = instance(backend, tmp_path)
    seen = counting_runs(model)
    requests = [Request(x=rows(1, 2)), Request(x=rows(3, width=5)), Request(x=rows(4))]
    answers = model.execute(requests)
    assert sorted(inputs["x"].shape for inputs in seen) == [(1, 5), (3, 2)]
    assert [answer.tensors["total"].tolist() for answer in answers] == [[2, 4], [15], [8]]


def test_a_model_without_batching_runs_each_request_by_itself(backend: ModuleType, tmp_path: Path) -> None:
    model = instance(backend, tmp_path, max_batch_size=0)
    seen = counting_runs(model)
    model.execute([Request(x=rows(1)), Request(x=rows(2))])
    assert len(seen) == 2


def test_each_request_gets_the_outputs_that_it_asked_for(backend: ModuleType, tmp_path: Path) -> None:
    model = instance(backend, tmp_path)
    answers = model.execute([Request(x=rows(1), outputs=("half",)), Request(x=rows(2), outputs=("total",))])
    assert [set(answer.tensors) for answer in answers] == [{"half"}, {"total"}]


def test_a_missing_input_or_a_wrong_type_is_that_requests_own_error(backend: ModuleType, tmp_path: Path) -> None:
    model = instance(backend, tmp_path)
    missing, wrong, good = model.execute([Request(), Request(x=rows(1).astype(np.float64)), Request(x=rows(2))])
    assert (missing.error.code, missing.error.message) == (Error.INVALID_ARG, "ValueError: input 'x' is missing")
    assert wrong.error.code == Error.INVALID_ARG
    assert good.tensors["total"].tolist() == [4]


@pytest.mark.parametrize(("count", "cores", "expected"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (16, 8, 1)])
def test_instances_share_the_cores(count: int, cores: int, expected: int) -> None:
    options = session_options({"instance_group": [{"count": count}]}, Host(cores=cores, log_severity=SILENT))
    assert options.intra_op_num_threads == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], 1),
        ([{}], 1),
        ([{"count": 2}, {"count": 3}], 5),
        ([{"count": 2, "gpus": [0, 1]}], 4),
        ([{"gpus": [0, 1, 2]}, {"count": "2", "gpus": []}], 5),
    ],
)
def test_instances_are_counted_on_each_gpu_that_a_group_names(groups: list[dict[str, Any]], expected: int) -> None:
    assert num_instances({"instance_group": groups}) == expected


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", 8), (None, 8)])
def test_a_server_without_a_word_of_its_cores_takes_those_of_the_mask(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.delenv(CORES_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(CORES_VARIABLE, given)
    assert instance(backend, tmp_path).opened.threads == expected
    assert server_host() == Host(cores=expected, log_severity=ERRORS_ALONE)


def test_what_opens_a_version_in_this_process_imports_nothing_of_the_server() -> None:
    code = (
        "import sys\n"
        "from resx.serving.embedded import backend_session\n"
        "for name in ('onnxruntime', 'openvino', 'tensorrt'): backend_session.load_session(name)\n"
        "print('triton_python_backend_utils' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("level", "name"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")],
)
def test_graph_levels_mean_what_they_mean_to_the_cpp_backend(level: int, name: str) -> None:
    options = session_options({"optimization": {"graph": {"level": level}}}, HOST)
    assert options.graph_optimization_level.name == name


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"optimization": {"graph": {"level": 7}}}, "level: 7 .*give -1"),
        (parameters(execution_mode="2"), "execution_mode='2'.*give 0 or 1"),
        (parameters(intra_op_thread_count="-3"), "='-3'.*give 0 .* to 1024"),
        (parameters(inter_op_thread_count="1e9"), "='1e9'.*give 0 .* to 1024"),
        (parameters(enable_mem_arena="maybe"), "='maybe'.*give 0 or 1"),
        (parameters(enable_mem_pattern="2"), "='2'.*give 0 or 1"),
        (parameters(memory__enable_memory_arena_shrinkage="x"), "give cpu:0"),
        (parameters(memory__enable_memory_arena_shrinkage="cpu:0", enable_mem_arena="0"), "enable_mem_arena is off"),
        (parameters(session__intra_op__allow_spinning="yes"), "give 0 or 1"),
        (parameters(session__intra_op__spin_duration_us="-1"), "spin_duration_us='-1'.*give 0 to 1000000"),
        (parameters(session__intra_op__spin_duration_us="1000001"), "='1000001'.*give 0 to 1000000"),
        (parameters(session__intra_op__spin_duration_us="0.5"), "='0.5'.*give 0 to 1000000"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        session_options(config, HOST), run_options(config)


NEVER, BOUNDED = {SPINNING: "0"}, {SPINNING: "1", SPIN_DURATION: str(SPIN_US)}


@pytest.mark.parametrize(
    ("asked", "version", "entries"),
    [
        ({}, "1.26.0", BOUNDED),
        ({}, "2.0.1", BOUNDED),
        ({}, "1.25.1", NEVER),  # takes the entry and spins for many milliseconds
        ({SPIN_DURATION: "300"}, "1.32.0", {SPINNING: "1", SPIN_DURATION: "300"}),
        ({SPIN_DURATION: "300"}, "1.9.0", NEVER),
        ({SPIN_DURATION: "0"}, "1.32.0", NEVER),
        ({SPIN_DURATION: "300", SPINNING: "0"}, "1.32.0", NEVER),
        ({SPIN_DURATION: "300", SPINNING: "1"}, "1.32.0", {SPINNING: "1", SPIN_DURATION: "300"}),
        ({SPIN_DURATION: "300", SPINNING: "1"}, "1.20.0", NEVER),
        ({SPINNING: "0"}, "1.32.0", NEVER),
        ({SPINNING: "1"}, "1.32.0", {SPINNING: "1"}),
        ({SPINNING: "true"}, "1.20.0", {SPINNING: "1"}),
    ],
)
def test_threads_spin_for_a_while_unless_told_otherwise_or_the_bound_would_not_hold(
    asked: dict[str, str], version: str, entries: dict[str, str]
) -> None:
    config = {"parameters": {key: {"string_value": value} for key, value in asked.items()}}
    assert spin_entries(config, version) == entries


def test_a_session_has_the_bound() -> None:
    options = session_options(parameters(session__intra_op__spin_duration_us="150"), HOST)
    assert options.get_session_config_entry(SPIN_DURATION) == "150"
    assert options.get_session_config_entry(SPINNING) == "1"


def test_the_documentation_names_the_durations() -> None:
    docs = Path(__file__).parents[3] / "docs"
    first, *rest, last = SPINS_US
    assert f"({', '.join(map(str, (first, *rest)))} or {last} us;" in (docs / "tuning.md").read_text()
    for page in ("repository.md", "serving-speed.md"):
        assert re.search(rf"wait (busily )?for {SPIN_US} us", (docs / page).read_text()), page


def test_both_backends_have_one_default() -> None:
    native = (BACKENDS / "onnxruntime" / "native" / "backend.cc").read_text()
    assert f"kSpinUs = {SPIN_US}, kMaxSpinUs = {MAX_SPIN_US};" in native
    assert f"api.minor >= {BOUNDED_SINCE[1]}" in native
