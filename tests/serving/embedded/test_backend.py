"""The embedded server's onnxruntime backends, inside a real Triton, on files that resx did not make.

Python processes and the native backend have one contract, so every test runs on a server of each.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from resx.errors import ResxError
from resx.repository.versions import Repository
from resx.serving.deployment.deploy import deploy
from resx.serving.embedded.installation.native_backend import missing_for_native
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support import onnx_files
from tests.support.running_triton import RunningTriton, wait_until
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def ask(triton: RunningTriton, name: str, *outputs: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    with triton_grpc.InferenceServerClient(triton.url().removeprefix("grpc://")) as client:
        tensors = []
        for tensor, array in inputs.items():
            request = triton_grpc.InferInput(tensor, list(array.shape), np_to_triton_dtype(array.dtype))
            tensors.append(request.set_data_from_numpy(array))
        wanted = [triton_grpc.InferRequestedOutput(output) for output in outputs] or None
        result = client.infer(name, tensors, outputs=wanted, client_timeout=60)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def serve(triton: RunningTriton, name: str) -> None:
    if triton.backend != "onnxruntime" and not (triton.repository.root / name / "config.pbtxt").exists():
        put_config(triton, name, "")
    with triton.client() as client:
        assert not deploy(client, triton.repository, name).checked


def config_of(triton: RunningTriton, name: str) -> dict[str, Any]:
    with triton_http.InferenceServerClient(triton.url("http").removeprefix("http://")) as client:
        return dict(client.get_model_config(name))


def put_config(triton: RunningTriton, name: str, text: str) -> None:
    lines = onnx_files.backend_lines(triton.backend)
    (triton.repository.root / name / "config.pbtxt").write_text(lines + text)


def statistics(triton: RunningTriton, name: str, counted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return a model's statistics, once there is something: of the Python backend Triton counts after it answers."""
    with triton_http.InferenceServerClient(triton.url("http").removeprefix("http://")) as client:

        def read() -> dict[str, Any]:
            (stats,) = client.get_inference_statistics(name)["model_stats"]
            return dict(stats)

        wait_until(lambda: bool(counted(read())), f"{name} is counted")
        return read()


@pytest.fixture(scope="module")
def native_triton(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> Iterator[RunningTriton]:
    """A server with the native backend that serves `tiny`."""
    if reason := missing_for_native():
        pytest.skip(reason)
    repository = Repository(tmp_path_factory.mktemp("native") / "model_repository")
    publish_tiny(repository, "tiny")
    detaching.serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--native"])
    yield RunningTriton(repository=repository)
    detaching.stop(repository)


@pytest.fixture(params=["python", "native", "openvino"])
def server(request: pytest.FixtureRequest) -> RunningTriton:
    """A server of each kind."""
    running: RunningTriton = request.getfixturevalue("native_triton" if request.param == "native" else "triton")
    if request.param == "openvino":
        pytest.importorskip("openvino")
        return replace(running, backend="openvino")
    return running


@pytest.fixture
def root(server: RunningTriton) -> Iterator[Path]:
    """The repository's folder; what a test loads is unloaded."""
    before = set(server.repository.names())
    yield server.repository.root
    with server.client() as client:
        for name in set(server.repository.names()) - before:
            client.unload(name)


def test_a_bare_folder_with_anothers_file_is_served(server: RunningTriton, root: Path) -> None:
    onnx_files.sum_and_half(root / "bare" / "1" / "model.onnx")
    assert "bare" in server.repository.names()
    serve(server, "bare")

    answer = ask(server, "bare", x=X)
    assert np.array_equal(answer["total"].ravel(), X.sum(axis=1))
    assert np.array_equal(answer["half"], X / 2)
    config = config_of(server, "bare")
    assert config["max_batch_size"] == 4
    assert config["input"][0]["dims"] == [-1]
    assert "dynamic_batching" in config


def test_a_fixed_first_axis_means_no_batching(server: RunningTriton, root: Path) -> None:
    onnx_files.identity(root / "fixed" / "1" / "model.onnx", TensorProto.FLOAT, [2, 3])
    serve(server, "fixed")
    config = config_of(server, "fixed")
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [2, 3]
    assert np.array_equal(ask(server, "fixed", x=X)["y"], X)


def test_numbers_without_axes_go_in_and_come_out(server: RunningTriton, root: Path) -> None:
    onnx_files.identity(root / "number" / "1" / "model.onnx", TensorProto.INT64, [])
    serve(server, "number")
    assert ask(server, "number", x=np.array([7]))["y"].tolist() == [7]


def test_what_config_says_is_kept_where_the_rest_is_completed(server: RunningTriton, root: Path) -> None:
    onnx_files.sum_and_half(root / "partly" / "1" / "model.onnx")
    put_config(
        server,
        "partly",
        'max_batch_size: 6\noutput { name: "half" data_type: TYPE_FP32 dims: [ -1 ] }\n'
        "dynamic_batching { max_queue_delay_microseconds: 7 }\n",
    )
    serve(server, "partly")
    config = config_of(server, "partly")
    assert [tensor["name"] for tensor in config["input"]] == ["x"]
    assert [tensor["name"] for tensor in config["output"]] == ["half"]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 7
    assert np.array_equal(ask(server, "partly", x=X)["half"], X / 2)


def test_a_batch_size_that_the_file_cannot_have_is_refused(server: RunningTriton, root: Path) -> None:
    onnx_files.identity(root / "unbatched" / "1" / "model.onnx", TensorProto.FLOAT, [2, 3])
    put_config(server, "unbatched", "max_batch_size: 8\n")
    with pytest.raises(ResxError, match="first axis of an input or output is fixed; write 0"):
        serve(server, "unbatched")


def test_every_numeric_type_comes_back_exactly(server: RunningTriton, root: Path) -> None:
    elements = {
        "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16,
        "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64, "int8": TensorProto.INT8,
        "int16": TensorProto.INT16, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
        "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE,
    }  # fmt: skip
    onnx_files.identities(root / "types" / "1" / "model.onnx", elements, ["n", 300])
    serve(server, "types")
    for seed in range(3):  # from the second on, into the memory of the first answer
        numbers = np.random.default_rng(seed).integers(0, 256, (3, 300))
        sent = {name: numbers.astype(name) for name in elements}
        answer = ask(server, "types", **sent)
        for name, array in sent.items():
            assert answer[f"y_{name}"].dtype == array.dtype
            assert np.array_equal(answer[f"y_{name}"], array), name


@pytest.mark.parametrize("name", ["words", "words_with_a_configuration"])
def test_strings_are_refused_with_what_is_served(server: RunningTriton, root: Path, name: str) -> None:
    onnx_files.identity(root / name / "1" / "model.onnx", TensorProto.STRING, ["n", 1])
    if name != "words":
        onnx_files.configure(root / name, "STRING", [1], output="STRING", output_dims="1", backend=server.backend)
    with pytest.raises(ResxError, match=r"x is a (tensor\()?string\)?; this backend serves (tensor\()?bool"):
        serve(server, name)


def test_only_the_outputs_asked_for_come_back(server: RunningTriton, root: Path) -> None:
    onnx_files.sum_and_half(root / "chosen" / "1" / "model.onnx")
    serve(server, "chosen")
    assert set(ask(server, "chosen", "half", x=X)) == {"half"}
    assert set(ask(server, "chosen", "total", "half", x=X)) == {"total", "half"}


def test_requests_of_different_shapes_at_once_each_get_their_own_answer(server: RunningTriton, root: Path) -> None:
    onnx_files.sum_and_half(root / "ragged" / "1" / "model.onnx")
    serve(server, "ragged")
    images = [np.full((1 + index % 2, 1 + index % 7), index, np.float32) for index in range(200)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda x: ask(server, "ragged", x=x), images))
    for sent, answer in zip(images, answers, strict=True):
        assert np.array_equal(answer["half"], sent / 2)
        assert np.array_equal(answer["total"].ravel(), sent.sum(axis=1))


def test_lone_requests_of_one_shape_each_get_their_own_answer(server: RunningTriton, root: Path) -> None:
    """One after the other into the same memory, while earlier answers are on their way to the clients."""
    onnx_files.identity(root / "alone" / "1" / "model.onnx", TensorProto.FLOAT, [200, 300])
    serve(server, "alone")
    images = [np.full((200, 300), index, np.float32) for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: ask(server, "alone", x=x)["y"], images))
    assert all(np.array_equal(answer, sent) for sent, answer in zip(images, answers, strict=True))


def test_one_requests_fault_does_not_fail_its_batch(server: RunningTriton, root: Path) -> None:
    if server.backend == "openvino":
        pytest.skip("OpenVINO answers 0 for an index out of bounds; `dropping` below shows the same for it")
    onnx_files.lookup(root / "table" / "1" / "model.onnx")
    put_config(
        server,
        "table",
        # A delay, so that good and bad requests meet in one batch.
        "max_batch_size: 64\ndynamic_batching { max_queue_delay_microseconds: 200000 }\n",
    )
    serve(server, "table")

    def look_up(index: int) -> float | str:
        try:
            return float(ask(server, "table", x=np.array([[index]], np.int64))["y"][0, 0])
        except InferenceServerException as error:
            return str(error.status())

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(look_up, [0, 1, 99, 2, 3, 99, 0, 1, 2, 3, 99, 1]))
    bad = "StatusCode.INVALID_ARGUMENT"
    assert answers == [0.0, 10.0, bad, 20.0, 30.0, bad, 0.0, 10.0, 20.0, 30.0, bad, 10.0]


def test_an_answer_with_fewer_rows_is_that_requests_error_and_no_others(server: RunningTriton, root: Path) -> None:
    onnx_files.rows_below(root / "dropping" / "1" / "model.onnx", 10.0)
    put_config(
        server,
        "dropping",
        "max_batch_size: 64\ndynamic_batching { max_queue_delay_microseconds: 200000 }\n",
    )
    serve(server, "dropping")

    def rows_of(*values: float) -> list[list[float]] | str:
        try:
            return ask(server, "dropping", x=np.array([[value] * 3 for value in values], np.float32))["y"].tolist()
        except InferenceServerException as error:
            return error.message()

    assert rows_of(1, 2) == [[1] * 3, [2] * 3]
    assert "output 'y' of shape [1, 3] for 2 rows of input" in rows_of(1, 99)
    assert "output 'y' of shape [0, 3] for 1 rows of input" in rows_of(99)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(rows_of, [1, 99, 2, 3, 99, 4]))
    assert [answer[0][0] for answer in answers if not isinstance(answer, str)] == [1, 2, 3, 4]


DIMS = """\
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""
WARM_UP = """\
model_warmup [ {
  name: "one" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3 ] random_data: true } }
} ]
"""


def test_a_third_partys_warm_up_is_left_out_so_that_it_cannot_end_the_server(server: RunningTriton, root: Path) -> None:
    """Triton 2.51 ended by SIGSEGV on one failed warm-up in three."""
    # Zeros, which it is asked first, are left; of a batch of random bytes hardly ever every row.
    onnx_files.rows_below(root / "warmed" / "1" / "model.onnx", 1e-30)
    put_config(server, "warmed", "max_batch_size: 4\n" + WARM_UP + DIMS)
    for _ in range(4):
        serve(server, "warmed")
        with server.client() as client:
            client.unload("warmed")
    require_same_server(server)


def test_a_warm_up_that_fails_is_the_models_fault_and_the_server_goes_on(server: RunningTriton, root: Path) -> None:
    """Loaded by hand, or with a card that somebody forged: nobody left it out."""
    onnx_files.rows_below(root / "forged" / "1" / "model.onnx", -1.0)
    put_config(server, "forged", "max_batch_size: 4\n" + WARM_UP.replace("random", "zero") + DIMS)
    for _ in range(4):
        with (
            server.client() as client,
            pytest.raises(ResxError, match=r"warm-up fails: output 'y' of shape \[0, 3\] for 1 rows"),
        ):
            client.load("forged")
    onnx_files.rows_below(root / "forged" / "1" / "model.onnx", 10.0)
    with server.client() as client:
        client.load("forged")
    assert ask(server, "forged", x=X)["y"].shape == (2, 3)
    require_same_server(server)


def require_same_server(server: RunningTriton) -> None:
    state = running_server(server.repository)
    assert state is not None
    assert (state.server_pid, state.restarts) == (server.state.server_pid, 0)


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


@pytest.mark.parametrize(
    ("backend", "line", "reason"),
    [
        ("onnxruntime", parameter("execution_mode", "2"), "execution_mode='2'.*give 0 or 1"),
        (
            "onnxruntime", parameter("intra_op_thread_count", "-1"),
            r"intra_op_thread_count='-1'.*give 0 \(the default\) to 1024",
        ),
        (
            "onnxruntime", parameter("memory.enable_memory_arena_shrinkage", "cpu:1"),
            "shrinkage='cpu:1'.*give cpu:0",
        ),
        (
            "onnxruntime", parameter("session.intra_op.spin_duration_us", "1e3"),
            "spin_duration_us='1e3'.*give 0 to 1000000",
        ),
        ("onnxruntime", "optimization { graph { level: 5 } }", r"optimization.graph.level: 5.*give -1 \(basic\)"),
        ("onnxruntime", 'default_model_filename: "../1/model.onnx"', "leads out of its folder"),
        ("onnxruntime", 'default_model_filename: "other.onnx"', "other.onnx: no such file"),
        ("", 'output { name: "nope" data_type: TYPE_FP32 dims: [ 3 ] }', "output .*nope.*has"),
        ("openvino", parameter("INFERENCE_NUM_THREADS", "many"), "INFERENCE_NUM_THREADS='many'.*give 0"),
        ("openvino", parameter("HINT_BF16", "maybe"), "HINT_BF16='maybe'.*give YES or NO"),
        ("openvino", parameter("TARGET_DEVICE", "GPU"), "TARGET_DEVICE='GPU'.*give CPU"),
        (
            "openvino", "instance_group { count: 2 kind: KIND_CPU } " + parameter("ENABLE_CPU_PINNING", "YES"),
            "ENABLE_CPU_PINNING=YES .* with 2 instances",
        ),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_fails_the_load_and_says_why(
    server: RunningTriton, root: Path, backend: str, line: str, reason: str
) -> None:
    if backend not in ("", server.backend):
        pytest.skip(f"a setting of {backend}'s")
    onnx_files.identity(root / "misset" / "1" / "model.onnx", TensorProto.FLOAT, ["n", 3])
    put_config(server, "misset", f"max_batch_size: 4\n{line}\n")
    with pytest.raises(ResxError, match=reason):
        serve(server, "misset")


def test_every_setting_of_the_cpp_backend_is_taken(server: RunningTriton, root: Path) -> None:
    onnx_files.sum_and_half(root / "every_setting" / "1" / "model.onnx")
    settings = {
        "INFERENCE_NUM_THREADS": "4", "NUM_STREAMS": "2", "PERFORMANCE_HINT": "throughput", "TARGET_DEVICE": "cpu",
        "ENABLE_BATCH_PADDING": "YES", "SKIP_OV_DYNAMIC_BATCHSIZE": "no", "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO", "CPU_DENORMALS_OPTIMIZATION": "YES",
    } if server.backend == "openvino" else {
        "intra_op_thread_count": "2", "inter_op_thread_count": "2", "execution_mode": "1", "enable_mem_arena": "true",
        "enable_mem_pattern": "0", "memory.enable_memory_arena_shrinkage": "cpu:0",
        "session.intra_op.allow_spinning": "1", "session.intra_op.spin_duration_us": "50",
        "session.use_device_allocator_for_initializers": "1",
    }  # fmt: skip
    lines = [parameter(key, value) for key, value in settings.items()]
    put_config(
        server,
        "every_setting",
        "max_batch_size: 4\noptimization { graph { level: -1 } }\n"
        "instance_group [ { count: 2 kind: KIND_CPU } ]\n" + "\n".join(lines),
    )
    serve(server, "every_setting")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, "every_setting", "half", x=X)["half"], range(50)))
    assert all(np.array_equal(answer, X / 2) for answer in answers)
    assert config_of(server, "every_setting")["instance_group"][0]["count"] == 2


def test_instances_that_share_a_session_answer_at_once(server: RunningTriton, root: Path) -> None:
    """The native backend's instances do, where each computes on one thread."""
    onnx_files.sum_and_half(root / "pair" / "1" / "model.onnx")
    put_config(
        server,
        "pair",
        "max_batch_size: 4\ninstance_group [ { count: 3 kind: KIND_CPU } ]\n"
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n',
    )
    serve(server, "pair")
    images = [np.full((1 + index % 4, 1000 + index % 3), index, np.float32) for index in range(120)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda x: ask(server, "pair", x=x), images))
    for sent, answer in zip(images, answers, strict=True):
        assert np.array_equal(answer["half"], sent / 2)
        assert np.allclose(answer["total"].ravel(), sent.sum(axis=1))


def test_triton_counts_what_was_computed(server: RunningTriton, root: Path) -> None:
    onnx_files.lookup(root / "counted" / "1" / "model.onnx")
    serve(server, "counted")
    ask(server, "counted", x=np.array([[0], [1], [2]], np.int64))
    stats = statistics(server, "counted", lambda stats: stats["execution_count"] > 1)
    # The first request is that of deploying a model without a card.
    assert (stats["inference_count"], stats["execution_count"]) == (1 + 3, 2)
    assert stats["inference_stats"]["success"]["count"] == 2
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0
    assert [entry["batch_size"] for entry in stats["batch_stats"]] == [1, 3]


def test_the_native_backend_counts_failures_as_such(native_triton: RunningTriton) -> None:
    """The stub of the Python backend counts a request that it answers with an error as a success."""
    onnx_files.lookup(native_triton.repository.root / "failing" / "1" / "model.onnx")
    serve(native_triton, "failing")
    with pytest.raises(InferenceServerException, match="onnxruntime: .*indices element out of data bounds"):
        ask(native_triton, "failing", x=np.array([[99]], np.int64))
    stats = statistics(native_triton, "failing", lambda stats: stats["inference_stats"]["fail"].get("count"))
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert stats["inference_stats"]["success"]["count"] == 1  # of deploying a model without a card
    assert [entry["batch_size"] for entry in stats["batch_stats"]] == [1]


def test_the_servers_log_does_not_grow_with_the_requests(server: RunningTriton, root: Path) -> None:
    """numpy used to write a traceback per answer: see the backend's first lines."""
    onnx_files.sum_and_half(root / "quiet" / "1" / "model.onnx")
    serve(server, "quiet")
    log = Path(server.state.log)
    ask(server, "quiet", x=X)
    before = log.stat().st_size
    for _ in range(50):
        ask(server, "quiet", x=X)
    assert log.stat().st_size - before < 1000, log.read_text()[before:][:2000]
