"""The backend `openvino`: what it has alone. What all backends for the CPU do is in test_backend(_alone).py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from resx.errors import MissingCapability, UsageError
from resx.repository.versions import Repository
from resx.runtimes.openvino_package import computes_in_bf16
from resx.serving.embedded.backend_session import load_session
from resx.serving.embedded.backends.config_values import SILENT, Host
from resx.serving.embedded.devices import require_device_for
from resx.serving.embedded.model_runtime import needs_runtime, require_openvino
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support import onnx_files
from tests.support.backend_alone import BACKENDS, Error, Request, load_backend, parameters, rows
from tests.support.command import Finished, run_resx
from tests.support.hidden_packages import environment_without
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

openvino = pytest.importorskip("openvino")
session = load_session("openvino")
settings = session.compile_settings
FOUR = Host(cores=4, log_severity=SILENT)


class Processor:
    """Stands for OpenVINO's Core on a processor that has only this."""

    def __init__(self, *capabilities: str) -> None:
        self.capabilities = [*capabilities]

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_backend(monkeypatch, BACKENDS / "openvino" / "model.py")


def instance(backend: ModuleType, folder: Path, **config: Any) -> Any:
    described = {
        "default_model_filename": "model.onnx", "max_batch_size": 8, "input": [{"name": "x"}],
        "output": [{"name": "total"}, {"name": "half"}],
    }  # fmt: skip
    model = backend.TritonPythonModel()
    model.initialize(
        {"model_config": json.dumps(described | config), "model_repository": str(folder), "model_version": "1"}
    )
    return model


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        ({}, 1, 4), ({}, 2, 2), ({}, 3, 1), ({}, 16, 1),
        ({"INFERENCE_NUM_THREADS": "2"}, 1, 2),
        ({"INFERENCE_NUM_THREADS": "64"}, 1, 4), ({"INFERENCE_NUM_THREADS": "64"}, 2, 2),  # never beyond the cores
        ({"INFERENCE_NUM_THREADS": "4", "NUM_STREAMS": "2"}, 2, 2),  # as the C++ backend divides them
        ({"INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "2"}, 2, 1),
        ({"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "4"}, 4, 1),
        ({"INFERENCE_NUM_THREADS": "3", "NUM_STREAMS": "auto"}, 1, 3),
        ({"INFERENCE_NUM_THREADS": "0"}, 2, 2),
    ],
)  # fmt: skip
def test_instances_have_their_threads_and_never_more_than_their_share_of_the_cores(
    given: dict[str, str], count: int, expected: int
) -> None:
    config = parameters(**given) | {"instance_group": [{"count": count}]}
    properties = settings.compile_properties(config, FOUR)
    assert properties["INFERENCE_NUM_THREADS"] == expected
    assert properties["NUM_STREAMS"] == 1


@pytest.mark.parametrize("count", [1, 2])
def test_threads_are_not_pinned_and_the_precision_is_always_said(count: int) -> None:
    properties = settings.compile_properties({"instance_group": [{"count": count}]}, FOUR)
    assert properties["ENABLE_CPU_PINNING"] is False
    assert properties["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"HINT_BF16": "YES"}, "bf16"), ({"HINT_BF16": "yes", "INFERENCE_PRECISION_HINT": "bf16"}, "bf16"),
        ({"INFERENCE_PRECISION_HINT": "BF16"}, "bf16"), ({"INFERENCE_PRECISION_HINT": "f32"}, "f32"),
        ({"HINT_BF16": "no"}, "f32"),
    ],
)  # fmt: skip
def test_either_word_for_bf16_is_taken(given: dict[str, str], expected: str) -> None:
    assert settings.precision(parameters(**given)) == expected


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (parameters(HINT_BF16="YES", INFERENCE_PRECISION_HINT="f32"), "HINT_BF16=YES and INFERENCE_PRECISION_HINT=f32"),
        (parameters(INFERENCE_PRECISION_HINT="f16"), "='f16'.*give F32 or BF16"),
        (parameters(INFERENCE_NUM_THREADS="-1"), "='-1'.*give 0 .* to 1024"),
        (parameters(INFERENCE_NUM_THREADS="9" * 5000), "give 0 .* to 1024"),
        (parameters(INFERENCE_NUM_THREADS="1", NUM_STREAMS="some"), "NUM_STREAMS='some'.*give 0"),
        (parameters(PERFORMANCE_HINT="fast"), "='fast'.*give LATENCY or THROUGHPUT"),
        (parameters(TARGET_DEVICE="AUTO"), "='AUTO'.*give CPU"),
        (parameters(RESHAPE_IO_LAYERS="yes"), "RESHAPE_IO_LAYERS=YES.*remove it"),
        (parameters(ENABLE_CPU_PINNING="1"), "='1'.*give YES or NO"),
        (parameters(ENABLE_CPU_PINNING="YES") | {"instance_group": [{"count": 2}]}, "with 2 instances.*same cores"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        settings.compile_properties(config, FOUR)


@pytest.mark.parametrize("given", [{"HINT_BF16": "YES"}, {"INFERENCE_PRECISION_HINT": "bf16"}])
def test_a_processor_without_bf16_is_never_computed_on_in_fp32_instead(tmp_path: Path, given: dict[str, str]) -> None:
    path = str(onnx_files.sum_and_half(tmp_path / "model.onnx"))
    with pytest.raises(ValueError, match="asks for bf16 .* and this processor has none") as caught:
        session.open_model(path, parameters(**given), FOUR, core=Processor("FP32", "INT8", "WINOGRAD"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["GPU", "MODEL"])
def test_an_instance_for_a_gpu_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=f"KIND_{kind} in config.pbtxt: .*on the CPU only.*write KIND_CPU"):
        session.open_model(str(tmp_path / "model.onnx"), {}, FOUR, kind, core=Processor("FP32", "BF16"))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_compiled_model_computes_in_what_was_asked_for(tmp_path: Path, precision: str) -> None:
    """Left alone OpenVINO takes bf16 where the processor has it."""
    if precision == "bf16" and not computes_in_bf16():
        pytest.skip("this processor has no BF16")
    path = str(onnx_files.sum_and_half(tmp_path / "model.onnx"))
    opened = session.open_model(path, parameters(INFERENCE_PRECISION_HINT=precision), Host(1, SILENT))
    compiled = opened.run._for_others.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == precision
    assert compiled.get_property("INFERENCE_NUM_THREADS") == opened.threads == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


class Compilations:
    """OpenVINO's Core, and the sizes of the batches that it compiled models for; -1: any."""

    def __init__(self) -> None:
        self._core = openvino.Core()
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def compile_model(self, model: Any, *arguments: Any) -> Any:
        first = model.inputs[0].partial_shape[0]
        self.sizes.append(-1 if first.is_dynamic else first.get_length())
        return self._core.compile_model(model, *arguments)


@pytest.mark.parametrize(
    ("shape", "config", "expected"),
    [
        (["n", 2], {"max_batch_size": 3}, [1, 2, 3]),
        (["n", 2], {"max_batch_size": 1}, [1]),
        (["n", 2], {"max_batch_size": 1024}, [1, -1]),
        (["n", 2], {"max_batch_size": 3} | parameters(**{"resx.fixed_batches": "no"}), [-1]),
        (["n", 2], {"max_batch_size": 0}, [-1]),
        (["n", 2], {}, [-1]),
        (["n", "width"], {"max_batch_size": 3}, [-1]),
        ([4, 2], {"max_batch_size": 0}, [4]),
    ],
)
def test_batches_of_each_size_have_a_model_of_their_own_where_the_file_and_its_size_allow(
    tmp_path: Path, shape: list[Any], config: dict[str, Any], expected: list[int]
) -> None:
    path = str(onnx_files.identity(tmp_path / "model.onnx", TensorProto.FLOAT, shape))
    core = Compilations()
    opened = session.open_model(path, config, FOUR, core=core)
    assert core.sizes == expected
    for num_rows in range(1, config.get("max_batch_size", 0) + 1):
        if num_rows < 10:
            (answer,) = opened.run(["y"], {"x": rows(*range(num_rows), width=2)}, None)
            assert answer.tolist() == [[row, row] for row in range(num_rows)]


@pytest.mark.parametrize(
    ("largest", "megabytes", "expected"),
    [(8, 8, 8), (8, 9, 1), (16, 4, 16), (17, 0, 1), (1, 9000, 1), (0, 1, 0), (2, 32, 2)],
)
def test_a_large_file_is_compiled_twice_and_no_more(largest: int, megabytes: int, expected: int) -> None:
    assert session.fixed_batches.fixed_sizes(largest, megabytes << 20) == list(range(1, expected + 1))


def test_weights_count_as_what_they_take_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(onnx_files.lookup(tmp_path / "model.onnx"))  # a table of 4 float32, and its axis
    core = Compilations()
    monkeypatch.setattr(session.fixed_batches, "MOST_BYTES", 2 * 16)
    session.open_model(path, {"max_batch_size": 2}, FOUR, core=core)
    assert core.sizes == [1, -1]


def test_a_graph_that_takes_some_sizes_only_is_compiled_as_it_is(tmp_path: Path) -> None:
    """Rows in pairs: a batch of one row has no such shape."""
    path = str(onnx_files.pairs(tmp_path / "model.onnx"))
    core = Compilations()
    opened = session.open_model(path, {"max_batch_size": 4}, FOUR, core=core)
    assert core.sizes[-1] == -1
    (answer,) = opened.run(["y"], {"x": rows(1, 2, width=1)}, None)
    assert answer.tolist() == [[1, 2]]


def test_a_word_that_is_none_for_fixed_batches_is_refused(tmp_path: Path) -> None:
    path = str(onnx_files.sum_and_half(tmp_path / "model.onnx"))
    with pytest.raises(ValueError, match=r"resx\.fixed_batches='some' in config\.pbtxt: give YES or NO"):
        session.open_model(path, parameters(**{"resx.fixed_batches": "some"}), FOUR)


def test_an_answer_is_not_written_over_by_the_next_one(backend: ModuleType, tmp_path: Path) -> None:
    onnx_files.sum_and_half(tmp_path / "1" / "model.onnx")
    model = instance(backend, tmp_path)
    answers = model.execute([Request(x=rows(2)), Request(x=rows(4, width=3)), Request(x=rows(6, width=2))])
    assert [answer.tensors["half"].tolist() for answer in answers] == [[[1, 1]], [[2, 2, 2]], [[3, 3]]]


@pytest.mark.parametrize("fixed", ["YES", "NO"])
@pytest.mark.parametrize("width", [1, 3])
def test_a_shape_that_numpy_would_repeat_is_refused(tmp_path: Path, fixed: str, width: int) -> None:
    """An image of one pixel would fill a whole one."""
    path = str(onnx_files.identity(tmp_path / "model.onnx", TensorProto.FLOAT, ["n", 2]))
    opened = session.open_model(path, {"max_batch_size": 3} | parameters(**{"resx.fixed_batches": fixed}), FOUR)
    with pytest.raises(ValueError, match=rf"^input 'x' has the shape \[1, {width}\], and the model takes \[.*2\]$"):
        opened.run(["y"], {"x": rows(1, width=width)}, None)
    (answer,) = opened.run(["y"], {"x": rows(5)}, None)
    assert answer.tolist() == [[5, 5]]


@pytest.mark.parametrize("fixed", ["YES", "NO"])
def test_outputs_come_by_name_in_whatever_order(tmp_path: Path, fixed: str) -> None:
    path = str(onnx_files.sum_and_half(tmp_path / "model.onnx"))
    opened = session.open_model(path, {"max_batch_size": 2} | parameters(**{"resx.fixed_batches": fixed}), FOUR)
    half, total = opened.run(["half", "total"], {"x": rows(2, 4)}, None)
    assert (half.tolist(), total.ravel().tolist()) == ([[1, 1], [2, 2]], [4, 8])
    (half,) = opened.run(["half"], {"x": rows(6)}, None)
    assert half.tolist() == [[3, 3]]


@pytest.mark.parametrize("fixed", ["YES", "NO"])
def test_an_output_whose_rows_depend_on_the_data_is_found_in_whatever_memory_it_is(tmp_path: Path, fixed: str) -> None:
    onnx_files.rows_below(tmp_path / "model.onnx", 10.0)
    config = {"max_batch_size": 3} | parameters(**{"resx.fixed_batches": fixed})
    opened = session.open_model(str(tmp_path / "model.onnx"), config, FOUR)
    for values in ([20, 1, 30], [2, 3, 4], [40, 50, 60], [70, 5, 6], [7], [8, 9]):
        (answer,) = opened.run(["y"], {"x": rows(*values, width=3)}, None)
        assert answer.tolist() == [[value] * 3 for value in values if value < 10]


def test_inputs_of_different_numbers_of_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx_files.identities(path, dict.fromkeys("ab", TensorProto.FLOAT), ["n", 2])
    opened = session.open_model(str(path), {"max_batch_size": 3}, FOUR)
    with pytest.raises(ValueError, match=r"^input 'b' has the shape \[1, 2\], and another input has other rows$"):
        opened.run(["y_a"], {"a": rows(1, 2), "b": rows(3)}, None)


def test_memory_that_may_not_be_written_is_read_where_it_is(backend: ModuleType) -> None:
    """numpy takes every tensor of the server's for such memory, and OpenVINO shares no other."""
    given = rows(1, 2)
    given.flags.writeable = False
    opened = backend.openvino_session.inference_runs.memory_views.writable(given)
    assert opened.flags.writeable
    assert np.shares_memory(opened, given)


@pytest.mark.parametrize("given", [{}, {"max_batch_size": 0}])
def test_a_missing_input_is_never_taken_from_an_earlier_request(
    backend: ModuleType, tmp_path: Path, given: dict[str, Any]
) -> None:
    """Of a model that says that it may be missing: OpenVINO would compute with what it had before."""
    onnx_files.identities(tmp_path / "1" / "model.onnx", dict.fromkeys("ab", TensorProto.FLOAT), ["n", 2])
    tensors = {"input": [{"name": "a"}, {"name": "b", "optional": True}], "output": [{"name": "y_a"}, {"name": "y_b"}]}
    model = instance(backend, tmp_path, **tensors, **given)
    asked = ("y_a", "y_b")
    first, second = model.execute([Request(a=rows(1), b=rows(2), outputs=asked), Request(a=rows(3), outputs=asked)])
    assert first.tensors["y_b"].tolist() == [[2, 2]]
    assert (second.error.code, second.error.message) == (
        Error.INVALID_ARG, "ValueError: input 'b' is missing, and OpenVINO needs all of them",
    )  # fmt: skip


def test_a_wrong_type_or_shape_is_the_clients_mistake_in_one_line(backend: ModuleType, tmp_path: Path) -> None:
    onnx_files.identity(tmp_path / "1" / "model.onnx", TensorProto.FLOAT, ["n", 2])
    model = instance(backend, tmp_path, output=[{"name": "y"}])
    answers = model.execute(
        [Request(x=rows(1).astype(np.float64), outputs=("y",)), Request(x=rows(1, width=3), outputs=("y",))]
    )
    assert [(answer.error.code, answer.error.message) for answer in answers] == [
        (Error.INVALID_ARG, "ValueError: input 'x' is float64, and the model takes float32"),
        (Error.INVALID_ARG, "ValueError: input 'x' has the shape [1, 3], and the model takes [?,2]"),
    ]


def test_an_operator_that_openvino_has_not_is_named(tmp_path: Path) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="some.where")
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("some.where", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"OpenVINO rejects it: .*some\.where\.Frobnicate") as caught:
        session.open_model(str(tmp_path / "model.onnx"), {}, FOUR)
    assert "\n" not in str(caught.value)
    assert "/src/" not in str(caught.value)


def test_a_file_of_openvinos_own_format_is_what_it_looks_for(backend: ModuleType, tmp_path: Path) -> None:
    found = openvino.Core().read_model(onnx_files.sum_and_half(tmp_path / "model.onnx"))
    (tmp_path / "1").mkdir()
    openvino.save_model(found, tmp_path / "1" / "model.xml", compress_to_fp16=False)
    model = instance(backend, tmp_path, default_model_filename="")
    (answer,) = model.execute([Request(x=rows(3))])
    assert answer.tensors["total"].tolist() == [6]


def test_the_servers_process_reports_nothing_and_writes_nothing_into_the_home_folder(tmp_path: Path) -> None:
    """As the stub runs it: without resx, which has its own word against it."""
    code = "import openvino_session as s; s.load_openvino(); import sys; print(sys.modules['openvino_telemetry'])"
    path = os.pathsep.join(map(str, (BACKENDS / "openvino", BACKENDS)))
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert not list(tmp_path.iterdir())


def test_what_a_model_needs_is_asked_before_it_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    config = folder / "config.pbtxt"
    config.write_text('backend: "openvino" parameters { key: "HINT_BF16" value { string_value: "YES" } }')
    require_openvino(folder, None, capabilities=lambda: ["FP32", "BF16"])
    with pytest.raises(MissingCapability, match=r"^m: OpenVINO computes it .*; pip install 'resx\[openvino\]'$"):
        require_openvino(folder, None, is_installed=lambda: False)
    with pytest.raises(MissingCapability, match="^m: config.pbtxt asks for bf16 .* this processor has none"):
        require_openvino(folder, None, capabilities=lambda: ["FP32"])
    config.write_text('backend: "openvino"')
    require_openvino(folder, None, capabilities=lambda: ["FP32"])
    assert needs_runtime(folder)
    for other in ('backend: "onnxruntime"', "not a configuration"):
        config.write_text(other)
        require_openvino(folder, None, is_installed=lambda: False)
        assert not needs_runtime(folder)


@pytest.fixture
def two(tmp_path: Path) -> Repository:
    """A repository with a model on each runtime."""
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    publish_tiny(repository, "by_openvino", runtime="openvino")
    return repository


def run(repository: Repository, *words: str, without: str = "") -> Finished:
    variables = environment_without(without.split(), repository.root.parent / "beside")
    return run_resx(*words, "--repository", repository.root, cwd=repository.root.parent, env=os.environ | variables)


PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
EXTRA = "OpenVINO computes it and is not installed; pip install 'resx[openvino]'"


@pytest.mark.parametrize("parameter", ["HINT_BF16", "INFERENCE_PRECISION_HINT"])
def test_a_model_in_bf16_is_refused_before_the_server_starts_on_a_processor_without_it(
    tmp_path: Path, parameter: str
) -> None:
    """OpenVINO is told to take this processor for one with AVX2 alone."""
    folder = tmp_path / "model_repository" / "m"
    onnx_files.sum_and_half(folder / "1" / "model.onnx")
    value = "YES" if parameter == "HINT_BF16" else "bf16"
    line = f'parameters {{ key: "{parameter}" value {{ string_value: "{value}" }} }}\n'
    (folder / "config.pbtxt").write_text(onnx_files.backend_lines("openvino") + line)
    done = run_resx("serve", "--load", "m", *PORTS, cwd=tmp_path, env=os.environ | {"OV_CPU_MAX_ISA": "AVX2"})
    assert done.code == 4, done.err
    assert done.err.startswith("error: m: config.pbtxt asks for bf16")
    assert len(done.err.splitlines()) == 1


def test_an_instance_for_a_gpu_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('backend: "openvino" instance_group { kind: KIND_GPU }')
    for device in ("cpu", "gpu"):
        with pytest.raises(UsageError, match="OpenVINO runs on the CPU only; write KIND_CPU"):
            require_device_for(tmp_path, device)  # type: ignore[arg-type]


@pytest.mark.triton
def test_without_the_extra_its_models_are_refused_by_name_and_the_others_served(two: Repository) -> None:
    named = run(two, "serve", "--load", "by_openvino", *PORTS, without="openvino")
    assert (named.code, named.err.splitlines()[-1]) == (4, f"error: by_openvino: {EXTRA}")
    try:
        several = run(two, "serve", "--detach", *PORTS, without="openvino")
        assert several.code == 0, several.err
        assert f"by_openvino is set aside: {EXTRA}" in several.out
        deployed = run(two, "deploy", "by_openvino", without="openvino")
        assert (deployed.code, deployed.err.splitlines()[-1]) == (4, f"error: by_openvino: {EXTRA}")
        state = running_server(two)
        assert state is not None
        answers = run(two, "status", "--json")
        assert json.loads(answers.out)["models"][0]["name"] == "tiny"
    finally:
        detaching.stop(two)


@pytest.mark.triton
def test_the_native_server_computes_them_in_a_process_of_their_own_and_says_so(two: Repository) -> None:
    try:
        done = run(two, "serve", "--native", "--detach", *PORTS)
        assert done.code == 0, done.err
        assert "by_openvino runs in its own process: --native supports onnxruntime only" in done.err
        assert "tiny is computed" not in done.err
        running = RunningTriton(repository=two)
        with running.client() as client:
            images = np.zeros((1, 3, 16, 16), np.uint8)
            ours, theirs = (client.infer(name, client.interface(name), images) for name in ("tiny", "by_openvino"))
        assert np.allclose(ours.logits, theirs.logits, rtol=1e-3, atol=1e-4)
    finally:
        detaching.stop(two)
