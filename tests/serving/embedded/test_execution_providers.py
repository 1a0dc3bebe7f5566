"""Where the onnxruntime backend computes, by lists of providers that are handed in: no GPU is needed."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from tests.support import onnx_files
from tests.support.backend_alone import CPU, CUDA, TENSORRT, Request, accelerated, beside, parameters, rows

DEFAULTS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return beside(monkeypatch, "execution_providers")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return beside(monkeypatch, "device_runs")


@pytest.mark.parametrize("kind", ["CPU", "MODEL"])
def test_an_instance_for_the_cpu_takes_no_gpu_whatever_is_there(providers: ModuleType, kind: str) -> None:
    config = accelerated("tensorrt") | parameters(gpu_mem_limit="1000")
    assert providers.choose(kind, 0, config, [TENSORRT, CUDA, CPU]) == [(CPU, {})]


@pytest.mark.parametrize("device", [0, 3])
def test_an_instance_for_a_gpu_takes_its_own_device(providers: ModuleType, device: int) -> None:
    chosen = providers.choose("GPU", device, {}, [CUDA, CPU])
    assert chosen == [(CUDA, DEFAULTS | {"device_id": str(device)}), (CPU, {})]


@pytest.mark.parametrize(
    ("config", "available", "missing"),
    [({}, [CPU], CUDA), (accelerated("tensorrt"), [CUDA, CPU], TENSORRT), (accelerated("cuda"), ["Azure", CPU], CUDA)],
)
def test_a_gpu_is_never_replaced_by_the_cpu(
    providers: ModuleType, config: dict[str, Any], available: list[str], missing: str
) -> None:
    with pytest.raises(ValueError, match=f"lacks {missing}; install onnxruntime-gpu instead of onnxruntime"):
        providers.choose("GPU", 0, config, available)


def test_a_provider_whose_libraries_do_not_load_is_refused_with_the_loaders_reason(providers: ModuleType) -> None:
    wanted = providers.choose("GPU", 0, {}, [CUDA, CPU])
    with pytest.raises(ValueError, match=r"cannot load it \(libcudnn.so.9: no such file\); it needs an NVIDIA driver"):
        providers.require_loaded(wanted, [CPU], "libcudnn.so.9: no such file")
    providers.require_loaded(wanted, [CUDA, CPU])


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (parameters(gpu_mem_limit="2147483648"), {"gpu_mem_limit": "2147483648"}),
        (parameters(cudnn_conv_algo_search="0"), {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
        (parameters(cudnn_conv_algo_search="1"), {"cudnn_conv_algo_search": "HEURISTIC"}),
        (parameters(arena_extend_strategy="1"), {"arena_extend_strategy": "kSameAsRequested"}),
        (accelerated("cuda", cudnn_conv_algo_search="EXHAUSTIVE"), {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
        (accelerated("cuda", use_tf32="1", gpu_mem_limit="5"), {"use_tf32": "1", "gpu_mem_limit": "5"}),
        (accelerated("cuda", enable_cuda_graph="true"), {"enable_cuda_graph": "1"}),
        (
            parameters(gpu_mem_limit="1") | accelerated("cuda", gpu_mem_limit="2"),
            {"gpu_mem_limit": "2"},
        ),
    ],
)
def test_cuda_is_set_up_in_either_of_the_cpp_backends_ways(
    providers: ModuleType, config: dict[str, Any], options: dict[str, str]
) -> None:
    ((name, found), _) = providers.choose("GPU", 1, config, [CUDA, CPU])
    assert (name, found) == (CUDA, DEFAULTS | {"device_id": "1"} | options)


def test_tensorrt_comes_first_and_cuda_takes_what_it_leaves(providers: ModuleType) -> None:
    config = accelerated(
        "tensorrt", precision_mode="fp16", max_workspace_size_bytes="1000", trt_engine_cache_enable="true"
    )
    assert providers.choose("GPU", 2, config, [TENSORRT, CUDA, CPU]) == [
        (
            TENSORRT,
            {
                "device_id": "2",
                "trt_fp16_enable": "1",
                "trt_max_workspace_size": "1000",
                "trt_engine_cache_enable": "1",
            },
        ),
        (CUDA, DEFAULTS | {"device_id": "2"}),
        (CPU, {}),
    ]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (accelerated("openvino", "cpu"), "cpu_execution_accelerator .*openvino.*has none"),
        (accelerated("openvino"), "gpu_execution_accelerator .*openvino.*give cuda or tensorrt"),
        (accelerated("tensorrt", precision_mode="FP8"), "precision_mode='FP8'.*give FP32, FP16, BF16, INT8"),
        (accelerated("tensorrt", workspace="1"), "no parameter 'workspace'"),
        (accelerated("cuda", device_id="1"), "device_id is set by the instance group"),
        (accelerated("cuda", enable_cuda_graph="yes"), "enable_cuda_graph='yes'.*give 0 or 1"),
        (parameters(gpu_mem_limit="-1"), "gpu_mem_limit='-1'.*number of bytes"),
        (parameters(gpu_mem_limit="4 GB"), "gpu_mem_limit='4 GB'.*number of bytes"),
        (parameters(cudnn_conv_algo_search="3"), "cudnn_conv_algo_search='3'.*give 0 or 1 or 2"),
    ],
)
def test_what_nobody_knows_is_refused_by_name(providers: ModuleType, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        providers.choose("GPU", 0, config, [TENSORRT, CUDA, CPU])


def test_this_onnxruntime_refuses_an_instance_for_a_gpu_that_it_cannot_use(backend: ModuleType, tmp_path: Path) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime is the package for NVIDIA GPUs")
    onnx_files.sum_and_half(tmp_path / "1" / "model.onnx")
    config = '{"max_batch_size": 8, "input": [{"name": "x"}], "output": [{"name": "total"}, {"name": "half"}]}'
    arguments = {"model_config": config, "model_repository": str(tmp_path), "model_version": "1"}
    with pytest.raises(ValueError, match="KIND_GPU and onnxruntime lacks CUDAExecutionProvider"):
        backend.TritonPythonModel().initialize(
            arguments | {"model_instance_kind": "GPU", "model_instance_device_id": "0"}
        )


@pytest.mark.parametrize(("num_rows", "largest", "size"), [(1, 8, 1), (3, 8, 4), (5, 6, 6), (8, 8, 8), (9, 0, 9)])
def test_a_captured_batch_is_the_next_power_of_two(runs: ModuleType, num_rows: int, largest: int, size: int) -> None:
    assert runs.padded_size(num_rows, largest) == size


@pytest.mark.parametrize("num_rows", [1, 3, 4])
@pytest.mark.parametrize("kind", ["bound", "sized", "graphs"])
def test_runs_on_a_device_give_what_the_session_gives(
    runs: ModuleType, tmp_path: Path, kind: str, num_rows: int
) -> None:
    """On the CPU, which onnxruntime binds to in the same way."""
    path = tmp_path / "model.onnx"
    if kind in ("bound", "sized"):
        onnx_files.sum_and_half(path)
    else:
        onnx_files.identity(path, TensorProto.FLOAT, ["n", 2])
    session = onnxruntime.InferenceSession(str(path), providers=[CPU])
    names = [output.name for output in session.get_outputs()]
    place = ("cpu", 0)
    run = {
        "bound": lambda: runs.BoundRuns(session, place),
        "sized": lambda: runs.SizedRuns(lambda: onnxruntime.InferenceSession(str(path)), session, place, 8),
        "graphs": lambda: runs.GraphRuns(session, place, 8),
    }[kind]()
    for values in (range(num_rows), range(5, 5 + num_rows)):
        inputs = {"x": rows(*values)}
        for found, expected in zip(run(names, inputs, None), session.run(names, inputs), strict=True):
            assert np.array_equal(found, expected)


class Recorded:
    """A session that notes the sizes of the batches that it runs."""

    def __init__(self, session: Any) -> None:
        self.session, self.sizes = session, set[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.session.run_with_iobinding(binding, options)
        self.sizes.add(binding.get_outputs()[0].shape()[0])


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_a_session_on_a_gpu_sees_one_size_of_batch_and_sees_it_before_the_first_request(
    runs: ModuleType, tmp_path: Path, largest: int, sizes: list[int]
) -> None:
    path = tmp_path / "model.onnx"
    onnx_files.identity(path, TensorProto.FLOAT, ["n", 2])
    sessions: list[Recorded] = []

    def open_session() -> Recorded:
        sessions.append(Recorded(onnxruntime.InferenceSession(str(path), providers=[CPU])))
        return sessions[-1]

    run = runs.SizedRuns(open_session, open_session(), ("cpu", 0), largest)
    assert [session.sizes for session in sessions] == [{size} for size in sizes]
    for num_rows in range(1, largest + 1):
        images = np.full((num_rows, 2), num_rows, np.float32)
        (answer,) = run([session.get_outputs()[0].name for session in sessions[:1]], {"x": images}, None)
        assert np.array_equal(answer, images)
    assert [session.sizes for session in sessions] == [{size} for size in sizes]


@pytest.mark.parametrize(("largest", "sizes"), [(0, {2}), (1, {1}), (6, {1, 2, 4, 6})])
def test_every_cuda_graph_is_captured_before_the_first_request(
    runs: ModuleType, tmp_path: Path, largest: int, sizes: set[int]
) -> None:
    onnx_files.identity(tmp_path / "model.onnx", TensorProto.FLOAT, ["n" if largest else 2, 2])
    session = Recorded(onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=[CPU]))
    run = runs.GraphRuns(session, ("cpu", 0), largest)
    assert session.sizes == sizes
    for num_rows in range(1, largest + 1) if largest else [2]:
        images = np.full((num_rows, 2), num_rows, np.float32)
        (answer,) = run([session.get_outputs()[0].name], {"x": images}, None)
        assert np.array_equal(answer, images)
    assert session.sizes == sizes


def test_cuda_graphs_want_every_size_but_the_batchs(runs: ModuleType, tmp_path: Path) -> None:
    onnx_files.sum_and_half(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=[CPU])
    with pytest.raises(ValueError, match="enable_cuda_graph in config.pbtxt: x has the shape"):
        runs.GraphRuns(session, ("cpu", 0), 8)


def test_a_backend_on_a_device_answers_as_one_on_the_cpu(backend: ModuleType, runs: ModuleType, tmp_path: Path) -> None:
    onnx_files.sum_and_half(tmp_path / "1" / "model.onnx")
    model = backend.TritonPythonModel()
    config = '{"max_batch_size": 8, "input": [{"name": "x"}], "output": [{"name": "total"}, {"name": "half"}]}'
    model.initialize({"model_config": config, "model_repository": str(tmp_path), "model_version": "1"})
    model.run = runs.BoundRuns(model.opened.session, ("cpu", 0))
    answers = model.execute([Request(x=rows(1)), Request(x=rows(2), outputs=("half",))])
    assert [{name: part.tolist() for name, part in answer.tensors.items()} for answer in answers] == [
        {"total": [2.0], "half": [[0.5, 0.5]]},
        {"half": [[1.0, 1.0]]},
    ]
