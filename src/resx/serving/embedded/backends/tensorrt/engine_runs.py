"""Runs of an engine: a batch goes to the GPU in one copy for each input, and its answer comes back in one.

Requests are gathered in pinned memory, from where the GPU fetches them; everything is queued on one stream and waited
for once. A batch above the largest of the engine's optimization profile is computed in parts, and one below the
smallest is filled up with zeros, whose answers are dropped. Both are right for models whose rows do not depend on each
other, which are the only ones that resx publishes batched.

`trt` is the module `tensorrt` or `tensorrt_rtx`: both have this interface.
"""

import math
from typing import Any, NamedTuple, TypeAlias

import cuda_driver
import file_interface
import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

TYPES = {
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "INT8": "TYPE_INT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "HALF": "TYPE_FP16",
    "FLOAT": "TYPE_FP32",
}
"""TensorRT's names and Triton's. bfloat16 and fewer than 8 bits cannot cross DLPack into numpy."""
_NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "HALF": np.float16,
    "FLOAT": np.float32,
}


class Part(NamedTuple):
    """Rows of a batch that are computed together."""

    start: int
    num_rows: int
    computed: int
    """Rows that the engine is given: more than there are where its profile begins higher."""


def split_rows(num_rows: int, least: int, most: int) -> list[Part]:
    """Return the parts of a batch for a profile of `least` to `most` rows."""
    sizes = [(start, min(most, num_rows - start)) for start in range(0, num_rows, most)]
    return [Part(start, size, max(size, least)) for start, size in sizes]


def describe(trt: Any, engine: Any) -> "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts]]":
    """Return what an engine says of its inputs and outputs."""
    inputs: list[file_interface.TensorFacts] = []
    outputs: list[file_interface.TensorFacts] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind, shape = engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name))
        facts = file_interface.type_facts(name, kind, shape, TYPES)
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            facts = facts._replace(refusal=f"{name} is a shape, which stays in host memory; this backend serves data")
        elif engine.get_tensor_vectorized_dim(name) != -1:
            facts = facts._replace(refusal=f"{name} has a vectorized layout; build the engine with linear ones")
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(facts)
    return inputs, outputs


class EngineRuns:
    """An engine's execution context with its memory; for one thread."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        context: Any,
        device: cuda_driver.Device,
        *,
        profile: int,
        batches: bool,
        why: Any = lambda: "no reason given",
    ) -> None:
        """Prepare; no memory is taken before the first run.

        Args:
            trt: the package.
            engine: opened by it.
            context: of the engine, with the profile set.
            device: the GPU of both.
            profile: number of the optimization profile that is used.
            batches: whether the first axis is a batch's, whose rows are independent.
            why: tells TensorRT's last error.
        """
        inputs, outputs = describe(trt, engine)
        self._context, self._device, self._why, self._batches = context, device, why, batches
        self._types = {
            tensor.name: np.dtype(_NUMPY.get(engine.get_tensor_dtype(tensor.name).name, np.uint8))
            for tensor in (*inputs, *outputs)
        }
        self._outputs = [tensor.name for tensor in outputs]
        self._limits = {
            tensor.name: [tuple(shape) for shape in engine.get_tensor_profile_shape(tensor.name, profile)]
            for tensor in inputs
        }
        self._memory = {name: cuda_driver.GpuBuffer(device) for name in self._types}
        self._pinned = {name: cuda_driver.PinnedBuffer(device) for name in self._types}

    @property
    def largest_batch(self) -> int:
        """The most rows that all inputs take at once."""
        return min((most[0] for _, _, most in self._limits.values() if most), default=1)

    def join(self, name: str, arrays: "list[Array]") -> Array:
        """Return the rows of several requests one after the other, in pinned memory."""
        rows = sum(len(array) for array in arrays)
        self._require_type(name, arrays[0])
        return np.concatenate(arrays, out=self._reserve(name, (rows, *arrays[0].shape[1:])))

    def __call__(self, names: list[str], inputs: dict[str, Array], _options: Any) -> list[Array]:
        """Return the outputs of these names.

        Raises:
            ValueError: an input is outside of the profile, or of another type.
            CudaError: the GPU has no memory for the batch, or failed.
            RuntimeError: TensorRT could not run it.
        """
        if missing := sorted(self._limits.keys() - inputs.keys()):
            raise ValueError(f"input {missing[0]!r} is missing; an engine needs all its inputs")
        self._device.use()
        placed = {name: self._place(name, array) for name, array in inputs.items()}
        try:
            found = self._queue(names, placed)
        finally:
            self._device.wait()  # whatever happened, nothing may still use the memory
        # Copies: the next run of this very call of `execute` writes into the same memory.
        return [found[name].copy() for name in names]

    def close(self) -> None:
        """Give the memory back."""
        self._device.use()
        for buffer in (*self._memory.values(), *self._pinned.values()):
            buffer.free()

    def _parts(self, placed: dict[str, Array]) -> list[Part]:
        if not self._batches:
            return [Part(0, 1, 1)]
        num_rows = len(next(iter(placed.values())))
        if not num_rows:
            raise ValueError("an empty batch: send one or more rows")
        return split_rows(num_rows, self._smallest_batch, self.largest_batch)

    @property
    def _smallest_batch(self) -> int:
        return max(least[0] for least, _, _ in self._limits.values())

    def _queue(self, names: list[str], placed: dict[str, Array]) -> dict[str, Array]:
        """Queue copies and computation of every part; the outputs are complete after the device was waited for."""
        parts = self._parts(placed)
        num_rows = parts[-1].start + parts[-1].num_rows
        found: dict[str, Array] = {}
        for part in parts:
            for name, array in placed.items():
                self._copy_in(name, array, part)
            shapes = {name: self._bind_output(name) for name in self._outputs}
            if not self._context.execute_async_v3(self._device.stream):
                raise RuntimeError(f"the engine could not run {_rows_text(part, self._batches)}: {self._why()}")
            for name in names:
                shape = (num_rows, *shapes[name][1:]) if self._batches else shapes[name]
                if name not in found:
                    found[name] = self._array(name, shape)
                self._copy_out(name, found[name], part)
        return found

    def _copy_in(self, name: str, array: Array, part: Part) -> None:
        shape, start = (part.computed, *array.shape[1:]), part.start * _row_bytes(array)
        if not self._batches:
            shape, start = array.shape, 0
        if not self._context.set_input_shape(name, shape):
            least, _, most = self._limits[name]
            raise ValueError(
                f"input {name!r} of shape {list(shape)}: the engine's profile takes {list(least)} to {list(most)}"
            )
        num_bytes = math.prod(shape) * array.itemsize
        address = self._memory[name].require(max(1, num_bytes))
        self._device.copy_in(address, self._pinned[name].address + start, num_bytes)
        self._context.set_tensor_address(name, address)

    def _bind_output(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise RuntimeError(f"output {name!r} has a size that depends on the data, which this backend cannot serve")
        num_bytes = math.prod(shape) * self._types[name].itemsize
        self._context.set_tensor_address(name, self._memory[name].require(max(1, num_bytes)))
        return shape

    def _copy_out(self, name: str, whole: Array, part: Part) -> None:
        start, num_bytes = part.start * _row_bytes(whole), part.num_rows * _row_bytes(whole)
        if not self._batches:
            start, num_bytes = 0, whole.nbytes
        self._device.copy_out(self._pinned[name].address + start, self._memory[name].address, num_bytes)

    def _place(self, name: str, array: Array) -> Array:
        """Return the array in pinned memory; `join` has put it there already."""
        self._require_type(name, array)
        pinned = self._pinned[name].address
        if pinned and array.__array_interface__["data"][0] == pinned:
            return array
        target = self._reserve(name, array.shape)
        np.copyto(target, array)
        return target

    def _reserve(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return pinned memory for an array, with zeros behind it where its last part is filled up."""
        parts = split_rows(shape[0], self._smallest_batch, self.largest_batch) if self._batches else []
        filled = parts[-1].computed - parts[-1].num_rows if parts else 0
        whole = self._array(name, (shape[0] + filled, *shape[1:]) if filled else shape)
        if not filled:
            return whole
        whole[shape[0] :] = 0
        return whole[: shape[0]]

    def _array(self, name: str, shape: tuple[int, ...]) -> Array:
        num_bytes = math.prod(shape) * self._types[name].itemsize
        room = self._pinned[name].require(max(1, num_bytes))[:num_bytes]
        return room.view(self._types[name]).reshape(shape)

    def _require_type(self, name: str, array: Array) -> None:
        if name not in self._limits:
            raise ValueError(f"the engine has no input {name!r}")
        if array.dtype != self._types[name]:
            raise ValueError(f"input {name!r} is {array.dtype}, and the engine takes {self._types[name]}")


def _row_bytes(array: Array) -> int:
    return math.prod(array.shape[1:]) * array.itemsize


def _rows_text(part: Part, batches: bool) -> str:
    return f"a batch of {part.computed}" if batches else "the request"
