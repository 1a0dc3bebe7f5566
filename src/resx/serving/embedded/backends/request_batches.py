"""What the Python backends of this package do alike: gather requests, compute those that fit together, answer each.

The server's Python runs this file beside a backend's `model.py`, which says how a batch is computed; it imports numpy
and the stub's module, nothing of resx. `shared_tensors.py` says how tensors cross.

Whether the client has cancelled a request is a question to the server, which answers through two threads and a queue
in shared memory: about 0.15 ms for each request, in which nothing is computed. For a small network that took a tenth
of the throughput (resnet20 at 32 px). Triton drops what is cancelled while it waits in the queue; so the question is
asked only where a request takes long enough for it.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import file_interface
import numpy as np
import shared_tensors
import triton_python_backend_utils as pb_utils

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

WORTH_ASKING_S = 0.05
"""A request that takes longer than this is worth the question whether somebody still waits for it."""


class Call(NamedTuple):
    """One request that is to be computed."""

    place: int
    """Of its answer among the batch's."""
    inputs: dict[str, Array]
    outputs: tuple[str, ...]
    """Those that it asks for, in the configuration's order."""

    @property
    def num_rows(self) -> int:
        """Entries along the batch axis."""
        return len(next(iter(self.inputs.values())))


class BatchingModel:
    """One instance of one version of a model; a backend's class says how a batch is computed."""

    run: Any
    """Takes the outputs' names, the inputs by name and the options; gives the outputs."""
    run_options: Any = None
    last_run_s = 0.0
    """Of the newest batch, for each of its requests."""

    def prepare(
        self,
        config: dict[str, Any],
        path: str,
        inputs: Sequence[file_interface.TensorFacts],
        outputs: Sequence[file_interface.TensorFacts],
    ) -> None:
        """Take from the configuration what requests hold, check it against the file, and try the warm-up.

        Raises:
            ValueError: config.pbtxt names what the file lacks, a type cannot be served, or the warm-up fails.
        """
        self.batches = config.get("max_batch_size", 0) > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.optional = {tensor["name"] for tensor in config["input"] if tensor.get("optional")}
        self.kept_response = shared_tensors.KeptResponse()
        self.scalars = {tensor.name for tensor in inputs if not tensor.shape}
        file_interface.require_names("input", self.inputs, inputs, path)
        file_interface.require_names("output", self.outputs, outputs, path)
        self._try_warm_up(config)

    def join(self, _name: str, arrays: "list[Array]") -> Array:
        """Return the rows of several requests as one batch of this input."""
        return np.concatenate(arrays)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests, in their order; those that fit together are computed together."""
        asks, are_joined = self.last_run_s > WORTH_ASKING_S, self.batches and len(requests) > 1
        if len(requests) == 1 and not asks:
            return [self._answer_alone(requests[0])]
        answers: list[Any] = [None] * len(requests)
        groups: dict[object, list[Call]] = {}
        for place, request in enumerate(requests):
            try:
                if asks and request.is_cancelled():
                    answers[place] = _error("the client cancelled the request", pb_utils.TritonError.CANCELLED)
                    continue
                call = self._read(place, request)
            except Exception as error:  # a request must get an answer, whatever happened
                answers[place] = _failure(error)
            else:
                groups.setdefault(self._what_fits(call) if are_joined else place, []).append(call)
        begun = time.perf_counter()
        for group in groups.values():
            self._answer(group, answers)
        if groups:
            self.last_run_s = (time.perf_counter() - begun) / sum(map(len, groups.values()))
        return answers

    def _answer_alone(self, request: Any) -> Any:
        """Answer the only request by the shortest way: after a long run little of this is in the processor's caches."""
        try:
            call = self._read(0, request)
            begun = time.perf_counter()
            parts = self._compute(call)
            self.last_run_s = time.perf_counter() - begun
            return self.kept_response(parts)
        except Exception as error:  # a request must get an answer, whatever happened
            return _failure(error)

    def _compute(self, call: Call) -> dict[str, Array]:
        """Return the outputs that one call asks for."""
        results = self.run(list(call.outputs), call.inputs, self.run_options)
        if self.batches:
            require_rows(call.outputs, results, call.num_rows)
        return dict(zip(call.outputs, results, strict=True))

    @staticmethod
    def _what_fits(call: Call) -> object:
        """Return what calls have in common that one batch computes.

        Triton joins requests of different shapes where the configuration has dims of -1.
        """
        return tuple((name, array.shape[1:]) for name, array in call.inputs.items())

    def _read(self, place: int, request: Any) -> Call:
        inputs = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                if name in self.optional:
                    continue
                raise ValueError(f"input {name!r} is missing")
            array = shared_tensors.read(tensor)
            inputs[name] = array.reshape(()) if name in self.scalars else array
        if len(self.outputs) == 1:  # a request that names none asks for all
            return Call(place, inputs, tuple(self.outputs))
        wanted = set(request.requested_output_names())
        return Call(place, inputs, tuple(name for name in self.outputs if name in wanted))

    def _answer(self, group: list[Call], answers: list[Any]) -> None:
        """Compute the calls in one run and put their responses in their places."""
        try:
            for call, parts in zip(group, self._run(group), strict=True):
                answers[call.place] = shared_tensors.response(parts)
        except Exception as error:
            if len(group) == 1:
                answers[group[0].place] = _failure(error)
                return
            # One request's fault must not fail the batch that Triton happened to put it in.
            for call in group:
                self._answer([call], answers)

    def _run(self, group: list[Call]) -> list[dict[str, Array]]:
        """Compute once; return per call its part of each output that it asked for."""
        if len(group) == 1:
            return [self._compute(group[0])]
        names = [name for name in self.outputs if any(name in call.outputs for call in group)]
        joined = {name: self.join(name, [call.inputs[name] for call in group]) for name in group[0].inputs}
        results = self.run(names, joined, self.run_options)
        ends = list(itertools.accumulate(call.num_rows for call in group))
        require_rows(names, results, ends[-1])
        whole = dict(zip(names, results, strict=True))
        bounds = zip((0, *ends), ends, strict=False)  # np.split takes ten times as long
        return [
            {name: whole[name][start:stop] for name in call.outputs}
            for call, (start, stop) in zip(group, bounds, strict=True)
        ]

    def _try_warm_up(self, config: dict[str, Any]) -> None:
        """Run the zeros that Triton warms this up with: it may not survive a failure of its own, and survives this one.

        Other data cannot be known here; resx loads no model with them.
        """
        for sample in config.get("model_warmup", []):
            tensors = sample.get("inputs", {})
            if not all(tensor.get("zero_data") for tensor in tensors.values()):
                continue
            rows = [int(sample.get("batch_size", 1))] if self.batches else []
            inputs = {
                name: np.zeros([*rows, *map(int, tensor.get("dims", []))], _dtype(tensor["data_type"]))
                for name, tensor in tensors.items()
            }
            try:
                results = self.run(self.outputs, inputs, self.run_options)
                if self.batches:
                    require_rows(self.outputs, results, *rows)
            except Exception as error:
                raise ValueError(f"its warm-up fails: {error}; remove model_warmup from config.pbtxt") from error


def require_rows(names: Sequence[str], results: list[Array], num_rows: int) -> None:
    """Refuse an answer that has no row for each that was asked: nobody could tell whose are missing."""
    for name, result in zip(names, results, strict=True):
        if result.ndim == 0 or len(result) != num_rows:
            raise ValueError(f"output {name!r} of shape {list(result.shape)} for {num_rows} rows of input")


def _dtype(name: str) -> str:
    """Return numpy's name of one of Triton's types."""
    kind = name.removeprefix("TYPE_").lower()
    return f"float{kind[2:]}" if kind.startswith("fp") else kind


def _failure(error: Exception) -> Any:
    """Return what the client gets: its own mistake if the runtime calls it one, else the server's."""
    kind = type(error).__name__
    mistaken = isinstance(error, ValueError) or kind == "InvalidArgument"
    code = pb_utils.TritonError.INVALID_ARG if mistaken else pb_utils.TritonError.INTERNAL
    return _error(f"{kind}: {error}", code)


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
