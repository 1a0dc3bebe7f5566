"""Runs of a session on a GPU: a batch crosses the bus once in each direction, and no session sees two sizes of batch.

onnxruntime's CUDA provider keeps the plans of its convolutions for the last shape alone (since 1.20,
onnxruntime issue 23006): each change of the batch builds them anew. On an H200, resnet50 in fp16 took 1.3 s for each
change and answered 5 images/s at 8 requests at a time, against 300 one after the other. So each size has a session of
its own, by powers of two up to the largest, and a batch between two sizes is filled up with zeros, whose answers are
dropped. That is right for models whose rows do not depend on each other, which are the only ones that resx publishes
batched. CUDA graphs keep every tensor at one address and need no plans again, so one session serves all their sizes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Place: TypeAlias = "tuple[str, int]"
"""onnxruntime's word for a kind of device, and which one."""


class BoundRuns:
    """Runs with inputs that are put on the GPU first, as they came, and outputs that come back from it."""

    def __init__(self, session: Any, place: Place) -> None:
        self._session, self._place = session, place

    def __call__(self, names: list[str], inputs: dict[str, Array], options: Any) -> list[Array]:
        """Return the outputs of these names."""
        import onnxruntime

        binding = self._session.io_binding()
        for name, array in inputs.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *self._place)
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, options)
        return list(binding.copy_outputs_to_cpu())


class SizedRuns:
    """Runs in a session for each size of batch, all opened before the first request."""

    def __init__(self, open_session: Callable[[], Any], first: Any, place: Place, largest: int) -> None:
        """Open a session for each size.

        Args:
            open_session: opens one more.
            first: that is open already.
            place: of the GPU.
            largest: batch.
        """
        self._largest = largest
        self._runs = {size: BoundRuns(open_session() if size > 1 else first, place) for size in padded_sizes(largest)}
        inputs = first.get_inputs()
        if all(isinstance(length, int) for tensor in inputs for length in tensor.shape[1:]):
            names = [tensor.name for tensor in first.get_outputs()]
            for size, run in self._runs.items():  # plans are made by the first run
                run(names, {one.name: np.zeros((size, *one.shape[1:]), DTYPES[one.type]) for one in inputs}, None)

    def __call__(self, names: list[str], inputs: dict[str, Array], options: Any) -> list[Array]:
        """Return the outputs of these names."""
        rows = len(next(iter(inputs.values())))
        size = padded_size(rows, self._largest)
        run = self._runs.get(size) or self._runs[self._largest]
        if size == rows:
            return run(names, inputs, options)
        filled = {name: filled_up(array, size) for name, array in inputs.items()}
        return [answer[:rows] for answer in run(names, filled, options)]


class GraphRuns:
    """Runs that are captured as CUDA graphs and repeated from then on; all of them before the first request.

    On an H200 a capture took 0.5 s for each size of batch of resnet50, which the first requests of a size would wait
    for; and while one session captures, CUDA refuses what another session of the process does.
    """

    def __init__(self, session: Any, place: Place, max_batch_size: int) -> None:
        self._max = max_batch_size
        described = [*session.get_inputs(), *session.get_outputs()]
        for tensor in described:
            sizes = tensor.shape[1:] if max_batch_size else tensor.shape
            if not all(isinstance(size, int) for size in sizes):
                raise ValueError(
                    f"enable_cuda_graph in config.pbtxt: {tensor.name} has the shape {tensor.shape}, but CUDA graphs "
                    "need every axis but the batch fixed"
                )
        self._captured = {size: _Captured(session, place, size) for size in padded_sizes(max_batch_size) or [0]}

    def __call__(self, names: list[str], inputs: dict[str, Array], _options: Any) -> list[Array]:
        """Return the outputs of these names; all are computed."""
        rows = len(next(iter(inputs.values()))) if self._max else 0
        found = self._captured[padded_size(rows, self._max) if self._max else 0].run(inputs, rows)
        return [found[name] for name in names]


def padded_sizes(largest: int) -> list[int]:
    """Return all sizes to which batches up to the largest are filled up."""
    return sorted({padded_size(rows, largest) for rows in range(1, largest + 1)})


def padded_size(rows: int, largest: int) -> int:
    """Return the next power of two, or the largest batch where that is smaller."""
    return int(min(1 << max(0, rows - 1).bit_length(), max(rows, largest)))


def filled_up(array: Array, size: int) -> Array:
    """Return a batch with rows of zeros behind its own."""
    missing = np.zeros((size - len(array), *array.shape[1:]), array.dtype)
    return np.concatenate([array, missing]) if len(missing) else np.ascontiguousarray(array)


class _Captured:
    """One size of batch: its tensors on the GPU, and the graph that reads and writes them."""

    def __init__(self, session: Any, place: Place, size: int) -> None:
        import onnxruntime

        self._session, self._size = session, size
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(size + 1))  # -1 and 0 have meanings of their own
        self._binding = session.io_binding()
        self._inputs, self._outputs = {}, {}
        for tensor in session.get_inputs():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(self._zeros(tensor), *place)
            self._inputs[tensor.name] = value
            self._binding.bind_ortvalue_input(tensor.name, value)
        for tensor in session.get_outputs():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(self._zeros(tensor), *place)
            self._outputs[tensor.name] = value
            self._binding.bind_ortvalue_output(tensor.name, value)
        session.run_with_iobinding(self._binding, self._options)

    def run(self, inputs: dict[str, Array], rows: int) -> dict[str, Array]:
        for name, array in inputs.items():
            self._inputs[name].update_inplace(filled_up(array, self._size) if rows else np.ascontiguousarray(array))
        self._session.run_with_iobinding(self._binding, self._options)
        found = {name: value.numpy() for name, value in self._outputs.items()}
        return {name: array[:rows] for name, array in found.items()} if self._size else found

    def _zeros(self, tensor: Any) -> Array:
        shape = [self._size, *tensor.shape[1:]] if self._size else tensor.shape
        return np.zeros(shape, DTYPES[tensor.type])


DTYPES = {
    "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(float16)": np.float16,
    "tensor(float)": np.float32, "tensor(double)": np.float64,
}  # fmt: skip
