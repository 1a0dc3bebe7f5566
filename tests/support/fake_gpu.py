"""A GPU and a TensorRT that are computed by numpy, with the interfaces of the real ones, to be passed in.

What is queued on a stream runs when the stream is waited for, and not before: whoever reads a result too early reads
what was there before. Copies must be from and to pinned memory, and every address must lie in memory that is held.
"""
# ruff: noqa: N802 - the names are the driver's and TensorRT's

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

OUT_OF_MEMORY, INVALID_VALUE, INVALID_DEVICE = 2, 1, 101
NAMES = {
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
    INVALID_DEVICE: b"CUDA_ERROR_INVALID_DEVICE",
}


class FakeCuda:
    """The driver's library, with so many bytes of memory."""

    def __init__(self, memory: int = 1 << 30) -> None:
        self.free = memory
        self.on_gpu: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.copies: list[tuple[str, int]] = []
        self.waits = 0

    def cuInit(self, _flags: int) -> int:
        return 0

    def cuDeviceGet(self, found: Any, number: int) -> int:
        found._obj.value = number
        return 0 if number == 0 else INVALID_DEVICE

    def cuDevicePrimaryCtxRetain(self, found: Any, _device: Any) -> int:
        found._obj.value = 77
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        return 0 if context.value == 77 else INVALID_VALUE

    def cuStreamCreate(self, found: Any, flags: int) -> int:
        found._obj.value = 5
        return 0 if flags == 1 else INVALID_VALUE

    def cuStreamDestroy_v2(self, _stream: Any) -> int:
        return 0

    def cuStreamSynchronize(self, _stream: Any) -> int:
        self.waits += 1
        queued, self.queue = self.queue, []
        for act in queued:
            act()
        return 0

    def cuMemAlloc_v2(self, found: Any, size: int) -> int:
        if size > self.free:
            return OUT_OF_MEMORY
        self.free -= size
        found._obj.value = self._hold(self.on_gpu, size)
        return 0

    def cuMemFree_v2(self, address: int) -> int:
        self.cuStreamSynchronize(None)  # as the driver waits for what uses the memory
        self.free += len(self.on_gpu.pop(address))
        return 0

    def cuMemAllocHost_v2(self, found: Any, size: int) -> int:
        found._obj.value = self._hold(self.pinned, size)
        return 0

    def cuMemFreeHost(self, address: Any) -> int:
        del self.pinned[address.value]
        return 0

    def cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: Any) -> int:
        return self._copy("in", target, self.on_gpu, source, self.pinned, size, stream)

    def cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: Any) -> int:
        return self._copy("out", target, self.pinned, source, self.on_gpu, size, stream)

    def cuGetErrorName(self, code: int, found: Any) -> int:
        found._obj.value = NAMES[code]
        return 0

    def _hold(self, where: dict[int, Any], size: int) -> int:
        memory = (ctypes.c_uint8 * size)(*b"\xa5" * min(size, 64))
        where[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def _copy(
        self, way: str, target: int, to: dict[int, Any], source: int, of: dict[int, Any], size: int, stream: Any
    ) -> int:
        if stream.value != 5 or not (within(to, target, size) and within(of, source, size)):
            return INVALID_VALUE
        self.copies.append((way, size))
        self.queue.append(lambda: ctypes.memmove(target, source, size) and None)
        return 0


def within(memories: dict[int, Any], address: int, size: int) -> bool:
    return any(begin <= address and address + size <= begin + len(memory) for begin, memory in memories.items())


class Type(Enum):
    FLOAT, HALF, UINT8, INT32, BF16 = range(5)


NUMPY = {Type.FLOAT: np.float32, Type.HALF: np.float16, Type.UINT8: np.uint8, Type.INT32: np.int32}


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class Logger:
    INTERNAL_ERROR, ERROR, WARNING = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class Mode(Enum):
    INPUT, OUTPUT = range(2)


class Location(Enum):
    DEVICE, HOST = range(2)


@dataclass
class Tensor:
    mode: Mode
    type: Type
    shape: tuple[int, ...]
    profiles: Sequence[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = ()
    location: Location = Location.DEVICE
    vectorized: int = -1


def taken(shape: tuple[int, ...], *batches: tuple[int, int, int], kind: Type = Type.FLOAT) -> Tensor:
    """Return an input [batch, *shape] with a profile for each triple of batches."""
    profiles = [tuple((size, *shape) for size in sizes) for sizes in batches]
    return Tensor(Mode.INPUT, kind, (-1, *shape), profiles)  # type: ignore[arg-type]


def given(*shape: int, kind: Type = Type.FLOAT) -> Tensor:
    return Tensor(Mode.OUTPUT, kind, shape)


@dataclass
class FakeEngine:
    """Computes every output by `compute`, from arrays by name to arrays by name."""

    tensors: dict[str, Tensor]
    compute: Callable[[dict[str, Any]], dict[str, Any]]
    cuda: FakeCuda
    refuses: Callable[[dict[str, tuple[int, ...]]], str] = lambda _shapes: ""
    """What TensorRT says of a run that it cannot do."""
    runs: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    logger: Any = None

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return max((len(tensor.profiles) for tensor in self.tensors.values()), default=1)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self.tensors[name].mode

    def get_tensor_dtype(self, name: str) -> Type:
        return self.tensors[name].type

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_location(self, name: str) -> Location:
        return self.tensors[name].location

    def get_tensor_vectorized_dim(self, name: str) -> int:
        return self.tensors[name].vectorized

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return list(self.tensors[name].profiles[profile])

    def create_execution_context(self) -> "FakeContext":
        return FakeContext(self)


def sum_and_half(cuda: FakeCuda, *profiles: tuple[int, int, int], width: int = 2) -> FakeEngine:
    """Return an engine with the answers of `onnx_files.sum_and_half`."""
    return FakeEngine(
        {"x": taken((width,), *(profiles or [(1, 4, 4)])), "total": given(-1), "half": given(-1, width)},
        lambda inputs: {"total": inputs["x"].sum(1), "half": inputs["x"] / 2},
        cuda,
    )


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.tensors[name].profiles[self.profile]
        self.shapes[name] = shape
        return len(shape) == len(least) and all(
            low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        )

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[:1]
        shape = self.engine.tensors[name].shape
        return (*batch, *shape[1:]) if shape[:1] == (-1,) else shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 5
        if said := self.engine.refuses(self.shapes):
            self.engine.logger.log(Logger.ERROR, said)
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        outputs = {
            name: self.get_tensor_shape(name) for name, t in self.engine.tensors.items() if t.mode is Mode.OUTPUT
        }
        self.engine.runs.append(shapes)
        self.engine.cuda.queue.append(lambda: self._run(shapes, outputs, addresses))
        return True

    def _run(
        self, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]], addresses: dict[str, int]
    ) -> None:
        arrays = {name: self._array(name, shape, addresses[name]) for name, shape in (inputs | outputs).items()}
        for name, value in self.engine.compute({name: arrays[name] for name in inputs}).items():
            arrays[name][...] = value

    def _array(self, name: str, shape: tuple[int, ...], address: int) -> Any:
        kind = np.dtype(NUMPY[self.engine.tensors[name].type])
        size = int(np.prod(shape)) * kind.itemsize
        assert within(self.engine.cuda.on_gpu, address, size), f"{name}: not memory of the GPU"
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), kind).reshape(shape)


class FakeTensorRT:
    """The package, whose runtime opens this engine, or says why not."""

    __name__, __version__ = "tensorrt", "11.4.0"
    TensorIOMode, TensorLocation, ILogger = Mode, Location, Logger

    def __init__(self, engine: FakeEngine | str) -> None:
        self._engine = engine
        self.opened: list[bytes] = []

    def Runtime(self, logger: Any) -> "FakeTensorRT":
        self._logger = logger
        return self

    def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
        self.opened.append(content)
        if isinstance(self._engine, str):
            self._logger.log(Logger.ERROR, self._engine)
            return None
        self._engine.logger = self._logger
        return self._engine
