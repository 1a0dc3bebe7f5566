"""The backends `tensorrt` and `tensorrt_rtx` without a server and without a GPU: both are passed in (`fake_gpu.py`)."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import resx.serving.embedded
from resx.gpus import find_gpus
from resx.serving.embedded.backends.config_values import SILENT, Host
from tests.support.backend_alone import Error, Request, load_backend, rows
from tests.support.command import Finished
from tests.support.fake_gpu import (
    FakeCuda,
    FakeEngine,
    FakeTensorRT,
    Location,
    Mode,
    Tensor,
    Type,
    given,
    sum_and_half,
    taken,
)

HOST = Host(cores=2, log_severity=SILENT)
MODEL = Path(resx.serving.embedded.__file__).parent / "backends" / "tensorrt" / "model.py"
CONFIG = {
    "backend": "tensorrt",
    "max_batch_size": 8,
    "input": [{"name": "x"}],
    "output": [{"name": "total"}, {"name": "half"}],
}


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_backend(monkeypatch, MODEL)


def instance(
    backend: ModuleType, folder: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, **config: Any
) -> Any:
    """Load a model as Triton does, over an engine that is passed in."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.plan").write_bytes(b"a plan")
    package, driver = FakeTensorRT(engine), backend.engine_session.cuda_driver.Driver(engine.cuda)
    monkeypatch.setattr(backend.engine_session, "load_package", lambda _config: package)
    monkeypatch.setattr(backend.engine_session.cuda_driver, "load_driver", lambda: driver)
    model = backend.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(CONFIG | config),
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "GPU",
            "model_instance_device_id": "0",
        }
    )
    assert package.opened == [b"a plan"]
    return model


def test_requests_are_one_batch_with_one_copy_in_and_one_copy_of_each_output_back(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    engine = sum_and_half(cuda)
    model = instance(backend, tmp_path, engine, monkeypatch)
    answers = model.execute([Request(x=rows(1, 2)), Request(x=rows(3)), Request(x=rows(4), outputs=("half",))])
    assert [{name: part.tolist() for name, part in answer.tensors.items()} for answer in answers] == [
        {"total": [2, 4], "half": [[0.5, 0.5], [1, 1]]},
        {"total": [6], "half": [[1.5, 1.5]]},
        {"half": [[2, 2]]},
    ]
    assert [run["x"] for run in engine.runs] == [(4, 2)]
    assert cuda.copies == [("in", 32), ("out", 16), ("out", 32)]


def test_an_output_that_nobody_asks_for_stays_on_the_gpu(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    model = instance(backend, tmp_path, sum_and_half(cuda), monkeypatch)
    model.execute([Request(x=rows(1), outputs=("total",))])
    assert cuda.copies == [("in", 8), ("out", 4)]


def test_answers_stay_what_they_are_while_the_next_group_is_computed(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = instance(backend, tmp_path, sum_and_half(FakeCuda()), monkeypatch)
    (first,) = model.execute([Request(x=rows(1, 2))])
    model.execute([Request(x=rows(7, 8))])
    assert first.tensors["half"].tolist() == [[0.5, 0.5], [1, 1]]


@pytest.mark.parametrize(
    ("profile", "num_rows", "computed"),
    [
        ((1, 4, 4), 8, [4, 4]),
        ((1, 3, 3), 8, [3, 3, 2]),
        ((2, 4, 4), 1, [2]),
        ((4, 4, 4), 5, [4, 4]),
        ((8, 8, 8), 8, [8]),
    ],
)
def test_a_batch_beyond_the_profile_is_split_and_one_below_it_is_filled_up(
    backend: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    profile: tuple[int, int, int],
    num_rows: int,
    computed: list[int],
) -> None:
    engine = sum_and_half(FakeCuda(), profile)
    model = instance(backend, tmp_path, engine, monkeypatch)
    for sent in (rows(*range(num_rows)), rows(*range(50, 50 + num_rows))):
        whole = model.execute([Request(x=sent)])
        apart = model.execute([Request(x=sent[:1]), *([Request(x=sent[1:])] if num_rows > 1 else [])])
        for answers in (whole, apart):
            assert np.concatenate([answer.tensors["total"] for answer in answers]).tolist() == sent.sum(1).tolist()
            assert np.array_equal(np.concatenate([answer.tensors["half"] for answer in answers]), sent / 2)
    assert [run["x"][0] for run in engine.runs[: len(computed)]] == computed


def test_what_fills_a_batch_up_is_zeros_whatever_was_there_before(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sum_and_half(FakeCuda(), (3, 4, 4))
    seen: list[Any] = []
    compute = engine.compute
    engine.compute = lambda inputs: seen.append(inputs["x"].tolist()) or compute(inputs)
    model = instance(backend, tmp_path, engine, monkeypatch)
    for sent in (rows(7, 8, 9, 6), rows(1), rows(7, 8, 9, 6, 5)):
        model.execute([Request(x=sent)])
    assert seen[1:] == [[[1, 1], [0, 0], [0, 0]], rows(7, 8, 9, 6).tolist(), [[5, 5], [0, 0], [0, 0]]]


def test_out_of_memory_is_the_error_of_the_request_that_wanted_it(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole batch is too large, so each is tried alone: one of them still is, and the next fits again."""
    cuda = FakeCuda(memory=60)  # a row in is 8 bytes and 12 out
    model = instance(backend, tmp_path, sum_and_half(cuda), monkeypatch)
    small, large, again = model.execute([Request(x=rows(1)), Request(x=rows(1, 2, 3, 4)), Request(x=rows(5))])
    assert large.error.code == Error.INTERNAL
    assert large.error.message == "CudaError: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"
    assert [small.tensors["total"].tolist(), again.tensors["total"].tolist()] == [[2], [10]]


def test_what_tensorrt_cannot_run_is_an_error_with_its_own_reason(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sum_and_half(FakeCuda())
    engine.refuses = lambda shapes: "Error Code 1:\n  out of workspace" if shapes["x"][0] > 2 else ""
    model = instance(backend, tmp_path, engine, monkeypatch)
    large, small = model.execute([Request(x=rows(1, 2, 3)), Request(x=rows(4))])
    assert large.error.message.endswith("could not run a batch of 3: Error Code 1: out of workspace")
    assert small.tensors["total"].tolist() == [8]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (rows(1, width=3), r"input 'x' of shape \[1, 3\]: the engine's profile takes \[1, 2\] to \[4, 2\]"),
        (rows(1).astype(np.float64), "input 'x' is float64, and the engine takes float32"),
        (rows().reshape(0, 2), "an empty batch"),
    ],
)
def test_an_input_that_the_engine_does_not_take_is_that_requests_own_mistake(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: np.ndarray, reason: str
) -> None:
    model = instance(backend, tmp_path, sum_and_half(FakeCuda()), monkeypatch)
    (wrong,), (good,) = model.execute([Request(x=sent)]), model.execute([Request(x=rows(2))])
    assert wrong.error.code == Error.INVALID_ARG
    with pytest.raises(ValueError, match=reason):
        raise ValueError(wrong.error.message)
    assert good.tensors["total"].tolist() == [4]


def test_a_model_without_batching_runs_each_request_by_itself_in_its_own_shape(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sum_and_half(FakeCuda())
    model = instance(backend, tmp_path, engine, monkeypatch, max_batch_size=0)
    answers = model.execute([Request(x=rows(1)), Request(x=rows(2, 3)), Request(x=rows(*range(5)))])
    assert [run["x"] for run in engine.runs] == [(1, 2), (2, 2)]
    assert [answer.tensors["total"].tolist() for answer in answers[:2]] == [[2], [4, 6]]
    assert answers[2].error.code == Error.INVALID_ARG  # nothing says that its rows are a batch's


def test_several_inputs_each_come_in_one_copy(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    engine = FakeEngine(
        {"x": taken((2,), (1, 4, 4)), "y": taken((3,), (1, 2, 3), kind=Type.UINT8), "z": given(-1, kind=Type.INT32)},
        lambda inputs: {"z": inputs["x"].sum(1) + inputs["y"].sum(1)},
        cuda,
    )
    config = {"input": [{"name": "x"}, {"name": "y"}], "output": [{"name": "z"}]}
    model = instance(backend, tmp_path, engine, monkeypatch, **config)
    whole = {"x": rows(*range(4)), "y": np.arange(12, dtype=np.uint8).reshape(4, 3)}
    answers = model.execute(
        [
            Request(outputs=("z",), **{name: array[part] for name, array in whole.items()})
            for part in (slice(0, 1), slice(1, 4))
        ]
    )
    found = np.concatenate([answer.tensors["z"] for answer in answers])
    assert found.tolist() == (whole["x"].sum(1) + whole["y"].sum(1)).tolist()
    assert [run["x"][0] for run in engine.runs] == [3, 1]  # the smaller of the two profiles
    (missing,) = model.execute([Request(x=rows(1), outputs=("z",))])
    assert "input 'y' is missing" in missing.error.message


def test_a_warm_up_that_fails_is_why_the_model_does_not_load(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = {"x": {"data_type": "TYPE_FP32", "dims": [2], "zero_data": True}}
    warm_up = [{"batch_size": size, "inputs": tensor} for size in (1, 4)]
    with pytest.raises(ValueError, match="its warm-up fails: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY; remove"):
        instance(backend, tmp_path / "a", sum_and_half(FakeCuda(memory=60)), monkeypatch, model_warmup=warm_up)
    engine = sum_and_half(FakeCuda())
    instance(backend, tmp_path / "b", engine, monkeypatch, model_warmup=warm_up)
    assert [run["x"][0] for run in engine.runs] == [1, 4]


def test_cancelled_requests_are_not_computed(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sum_and_half(FakeCuda())
    model = instance(backend, tmp_path, engine, monkeypatch)
    model.last_run_s = 2 * backend.file_model.request_batches.WORTH_ASKING_S
    cancelled, answered = model.execute([Request(x=rows(1), cancelled=True), Request(x=rows(2))])
    assert cancelled.error.code == Error.CANCELLED
    assert answered.tensors["total"].tolist() == [4]
    assert [run["x"] for run in engine.runs] == [(1, 2)]


def test_all_memory_is_given_back_at_the_end(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    model = instance(backend, tmp_path, sum_and_half(cuda), monkeypatch)
    for num_rows in (1, 4, 2):
        model.execute([Request(x=rows(*range(num_rows)))])
    assert len(cuda.on_gpu) == 3
    model.finalize()
    assert (cuda.on_gpu, cuda.pinned, cuda.free) == ({}, {}, 1 << 30)


@pytest.mark.parametrize(
    ("groups", "profile"), [([], 0), ([{"profile": ["1"]}], 1), ([{"profile": ["1"]}, {"profile": ["1"]}], 1)]
)
def test_the_optimization_profile_is_the_one_that_the_instance_group_names(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: list[dict[str, Any]], profile: int
) -> None:
    engine = sum_and_half(FakeCuda(), (1, 1, 1), (1, 4, 4))
    model = instance(backend, tmp_path, engine, monkeypatch, instance_group=groups)
    model.execute([Request(x=rows(1, 2, 3, 4))])
    assert [run["x"][0] for run in engine.runs] == ([4] if profile else [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([{"profile": ["2"]}], "profile '2' in config.pbtxt: give 0 to 1"),
        ([{"profile": ["-1"]}], "profile '-1' in config.pbtxt"),
        ([{"profile": ["first"]}], "profile 'first' in config.pbtxt"),
        ([{"profile": ["0", "1"]}], "give one, the same for every group"),
        ([{"profile": ["0"]}, {"profile": ["1"]}], "give one, the same for every group"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_name(
    backend: ModuleType, groups: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        backend.engine_session.choose_profile({"instance_group": groups}, 2)


@pytest.mark.parametrize("kind", ["CPU", "MODEL"])
def test_an_engine_is_never_taken_for_the_cpu(backend: ModuleType, tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=f"KIND_{kind} in config.pbtxt: an engine runs on a GPU only"):
        backend.engine_session.open_model(str(tmp_path / "model.plan"), CONFIG, HOST, kind)


def test_a_plan_that_tensorrt_refuses_is_refused_with_its_reason(backend: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(b"old")
    package = FakeTensorRT("Version tag does not match.\n Current Version: 239")
    with pytest.raises(ValueError, match=r"tensorrt 11.4.0 rejects it \(Version tag does not match. Current Version"):
        backend.engine_session.open_model(
            str(path), CONFIG, HOST, trt=package, driver=backend.engine_session.cuda_driver.Driver(FakeCuda())
        )


def test_a_gpu_that_is_not_there_is_named_by_the_driver(backend: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(b"plan")
    driver = backend.engine_session.cuda_driver.Driver(FakeCuda())
    with pytest.raises(backend.engine_session.cuda_driver.CudaError, match="cuDeviceGet: CUDA_ERROR_INVALID_DEVICE"):
        backend.engine_session.open_model(str(path), CONFIG, HOST, "GPU", 3, trt=FakeTensorRT("unused"), driver=driver)


def test_a_machine_without_a_driver_says_so(backend: ModuleType) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(
        backend.engine_session.cuda_driver.CudaError, match="no NVIDIA driver is installed .libcuda.so.1"
    ):
        backend.engine_session.cuda_driver.load_driver(absent)


def test_a_package_that_is_not_there_is_named(backend: ModuleType) -> None:
    with pytest.raises(ValueError, match="no_such_package cannot be imported .*resx doctor"):
        backend.engine_session.load_package({"backend": "no_such_package"})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"x": Tensor(Mode.INPUT, Type.BF16, (-1, 2), [((1, 2), (1, 2), (1, 2))])}, "x is a BF16; this backend serves"),
        (
            {"x": Tensor(Mode.INPUT, Type.FLOAT, (-1, 2), [((1, 2), (1, 2), (1, 2))], Location.HOST)},
            "x is a shape, which stays in host memory",
        ),
        ({"total": Tensor(Mode.OUTPUT, Type.FLOAT, (-1,), vectorized=0)}, "total has a vectorized layout"),
        ({"input": [{"name": "image"}]}, r"config.pbtxt names input \['image'\], but .*model.plan has \['x'\]"),
    ],
)
def test_what_cannot_be_served_is_refused_when_the_model_loads(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], reason: str
) -> None:
    engine = sum_and_half(FakeCuda())
    config = {name: value for name, value in changed.items() if name == "input"}
    engine.tensors |= {name: value for name, value in changed.items() if name != "input"}
    with pytest.raises(ValueError, match=reason):
        instance(backend, tmp_path, engine, monkeypatch, **config)


def test_an_output_whose_size_depends_on_the_data_is_an_error(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sum_and_half(FakeCuda())
    engine.tensors["half"] = given(-1, -1)
    model = instance(backend, tmp_path, engine, monkeypatch)
    (answer,) = model.execute([Request(x=rows(1))])
    assert "output 'half' has a size that depends on the data" in answer.error.message


def test_what_config_pbtxt_leaves_out_is_in_the_engine(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance(backend, tmp_path, sum_and_half(FakeCuda(), (1, 4, 6)), monkeypatch)

    class Config:
        found: dict[str, Any] = {"backend": "tensorrt", "max_batch_size": 0}  # noqa: RUF012

        def as_dict(self) -> dict[str, Any]:
            return self.found

    backend.file_model.pb_utils.get_model_dir = lambda: str(tmp_path / "1")
    assert backend.TritonPythonModel.auto_complete_config(Config()).found == {
        "backend": "tensorrt",
        "max_batch_size": 6,
        "dynamic_batching": {},
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [
            {"name": "total", "data_type": "TYPE_FP32", "dims": [1], "reshape": {"shape": []}},
            {"name": "half", "data_type": "TYPE_FP32", "dims": [2]},
        ],
    }


def test_the_interface_that_the_backend_calls_is_the_packages_own(backend: ModuleType) -> None:
    """Names only: without a GPU nothing of it can be called."""
    trt = pytest.importorskip("tensorrt_rtx")
    names = {
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: [name for name in vars(FakeEngine) if name.startswith(("num_", "get_", "create_"))],
        trt.IExecutionContext: [
            "set_optimization_profile_async",
            "set_input_shape",
            "get_tensor_shape",
            "set_tensor_address",
            "execute_async_v3",
        ],
        trt.ILogger: ["ERROR", "INTERNAL_ERROR", "log"],
        trt.TensorIOMode: ["INPUT"],
        trt.TensorLocation: ["HOST"],
        trt.DataType: list(backend.engine_runs.TYPES),
    }
    assert [f"{owner.__name__}.{name}" for owner, of in names.items() for name in of if not hasattr(owner, name)] == []


def test_the_drivers_functions_take_what_its_own_header_says(backend: ModuleType) -> None:
    """cuda.h, where some package brings it; a wrong number of arguments would only show on a GPU."""
    nvidia = importlib.util.find_spec("nvidia")
    roots = [Path(place) for place in (nvidia.submodule_search_locations or ())] if nvidia else []
    headers = [header for root in roots for header in root.glob("*/include/cuda.h")]
    if not headers:
        pytest.skip("no package has cuda.h")
    text = " ".join(headers[0].read_text(errors="replace").split())
    for name, arguments in backend.engine_session.cuda_driver._SIGNATURES.items():
        plain = name.removesuffix("_v2")
        assert any(f"#define {plain} {form}" in text for form in (f"{plain}_v2", f"__CUDA_API_PTSZ({plain}_v2)")) == (
            name != plain
        ), name
        declared = text.split(f"CUresult CUDAAPI {plain}(", 1)[1].split(")", 1)[0]
        assert len(declared.split(",")) == len(arguments), declared


@pytest.mark.gpu
@pytest.mark.skipif(bool(find_gpus().missing), reason=f"no GPU: {find_gpus().missing}")
def test_the_real_driver_takes_bytes_to_the_gpu_and_brings_them_back(backend: ModuleType) -> None:
    module = backend.engine_session.cuda_driver
    device = module.Device(module.load_driver(), 0)
    sent, back, memory = module.PinnedBuffer(device), module.PinnedBuffer(device), module.GpuBuffer(device)
    for size in (10, 5_000_000, 300):
        content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        sent.require(size)[:] = content
        room = back.require(size)
        room[:] = 0
        address = memory.require(size)
        device.copy_in(address, sent.address, size)
        device.copy_out(back.address, address, size)
        device.wait()
        assert np.array_equal(room, content)
    with pytest.raises(module.CudaError, match="cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"):
        memory.require(1 << 50)
    for buffer in (sent, back, memory):
        buffer.free()
    device.close()


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.skipif(bool(find_gpus().missing), reason=f"no GPU: {find_gpus().missing}")
@pytest.mark.parametrize("way", ["--isolated", "--native"])
@pytest.mark.parametrize("file_format", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_is_served_and_answers_as_pytorch_does(
    resx: Callable[..., Finished], file_format: str, way: str
) -> None:
    pytest.importorskip(file_format.replace("-", "_"), reason="the package is not installed")
    publish = ("--publish",) if file_format == "tensorrt-rtx" else ()
    made = resx(
        "export", "resnet20", "--fp16", "--format", file_format, *publish, "--name", "m", "--max-batch", "4", "--json"
    )
    assert made.code == 0, made.err
    if not made.json["engine"]["executed"]:
        pytest.skip("the engine is for other GPUs")
    served = resx("serve", "--detach", way, *(f"--{what}-port=0" for what in ("http", "grpc", "metrics")), "--json")
    try:
        assert served.json["not_loaded"] == [], served.err
        verified = resx("verify", "m", "--served", served.json["grpc"], "--json")
        assert (verified.code, verified.json["passed"]) == (0, True), verified.err
    finally:
        resx("stop")
