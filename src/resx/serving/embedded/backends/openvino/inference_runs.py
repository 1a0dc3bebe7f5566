"""Runs of a compiled model of OpenVINO's, over the memory that the requests are in.

A batch of a size that is compiled for itself is copied into the memory that OpenVINO has for it, which for an image of
224 pixels takes a third of the time that it takes to make other memory known to OpenVINO. Other batches are not copied:
it reads the array that Triton's stub has in shared memory. An output is, once: its memory is OpenVINO's own, and the
next run writes into it.

Two things are told to the client as its own mistakes, because OpenVINO would not, or would not clearly: an input of
another type or shape, and one that is missing, in whose place OpenVINO would read the memory of an earlier request.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import memory_views
import numpy as np
from fixed_batches import ANY_SIZE

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
_WHERE = ("Exception from ", "Check '", "[ GENERAL_ERROR ]")
"""How lines begin that say where in OpenVINO's sources something failed, and not what."""


class InferenceRuns:
    """A compiled model's requests, of which one computes each batch, one after the other."""

    def __init__(
        self, tensor: Any, requests: Mapping[int, Any], inputs: Mapping[str, Any], outputs: Sequence[str]
    ) -> None:
        """Take what there is.

        Args:
            tensor: OpenVINO's class.
            requests: by the rows that each computes; what is under `ANY_SIZE` computes all others.
            inputs: the file's, by name, in its order.
            outputs: names in the file's order.
        """
        self._tensor = tensor
        self._inputs = {
            name: (place, port.element_type.to_dtype(), port.partial_shape)
            for place, (name, port) in enumerate(inputs.items())
        }
        self._outputs = {name: place for place, name in enumerate(outputs)}
        self._by_rows = {rows: request for rows, request in requests.items() if rows != ANY_SIZE}
        self._for_others = requests.get(ANY_SIZE) or self._by_rows[max(self._by_rows)]
        self._memory = {
            rows: {name: request.get_input_tensor(place).data for name, (place, *_) in self._inputs.items()}
            for rows, request in self._by_rows.items()
        }
        """Of the inputs, where the size is fixed."""
        self._results = {
            rows: [request.get_output_tensor(place).data for place in range(len(outputs))]
            for rows, request in self._by_rows.items()
            if all(port.partial_shape.is_static for port in request.model_outputs)
        }
        """The outputs' memory, where OpenVINO never takes another."""

    def __call__(self, names: Sequence[str], inputs: Mapping[str, Array], _options: Any) -> list[Array]:
        """Return the outputs of these names.

        Raises:
            ValueError: an input is missing, or of another type or shape.
            RuntimeError: OpenVINO could not run it.
        """
        if missing := sorted(self._inputs.keys() - inputs.keys()):
            raise ValueError(f"input {missing[0]!r} is missing, and OpenVINO needs all of them")
        rows = len(next(iter(inputs.values()))) if self._by_rows else ANY_SIZE
        request = self._by_rows.get(rows, self._for_others)
        read = []  # as long as this name lives, so does the memory that OpenVINO reads
        try:
            if rows in self._memory:
                self._fill(self._memory[rows], inputs)
            else:
                read = self._share(request, inputs)
            computed = request.infer(share_outputs=True)  # given here, inputs go through dictionaries for 20 us
            found = self._results[rows] if rows in self._results else computed.to_tuple()
        except RuntimeError as error:
            self._require_shapes(inputs)
            raise RuntimeError(reason_of(error)) from error
        del read
        return [found[self._outputs[name]].copy() for name in names]

    def _fill(self, memory: Mapping[str, Array], inputs: Mapping[str, Array]) -> None:
        for name, array in inputs.items():
            self._require_type(name, array)
            if array.shape != memory[name].shape:  # numpy would repeat a shorter axis
                self._require_shapes(inputs)
                raise ValueError(f"input {name!r} has the shape {list(array.shape)}, and another input has other rows")
            memory[name][...] = array

    def _share(self, request: Any, inputs: Mapping[str, Array]) -> list[Array]:
        arrays = []
        for name, array in inputs.items():
            self._require_type(name, array)
            arrays.append(array if array.flags.c_contiguous else array.copy())
            place, *_ = self._inputs[name]
            # OpenVINO shares no other memory than what can be written, and writes into no input.
            request.set_input_tensor(place, self._tensor(memory_views.writable(arrays[-1]), shared_memory=True))
        return arrays

    def _require_type(self, name: str, array: Array) -> None:
        _, dtype, _ = self._inputs[name]
        if array.dtype != dtype:
            raise ValueError(f"input {name!r} is {array.dtype}, and the model takes {dtype}")

    def _require_shapes(self, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            _, _, shape = self._inputs[name]
            fits = len(shape) == array.ndim and all(
                size.is_dynamic or size.get_length() == given for size, given in zip(shape, array.shape, strict=True)
            )
            if not fits:
                raise ValueError(f"input {name!r} has the shape {list(array.shape)}, and the model takes {shape}")


def reason_of(error: Exception) -> str:
    """Return what OpenVINO says, on one line, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_WHERE)) or "no reason given"
