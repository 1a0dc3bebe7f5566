"""Triton backend `onnxruntime` in Python, for the embedded server.

A folder `backends/onnxruntime/` with this file is a backend of that name, so a repository whose models say
`backend: "onnxruntime"` is served here by this file and in NVIDIA's container by the C++ backend, from the
same bytes. The server's Python runs it; it imports numpy and onnxruntime only, nothing of resx.

Tensors cross by DLPack in both directions. The stub in nvidia-pytriton 0.7.0 was built against numpy 1:
under numpy 2 `as_numpy()` and `Tensor(name, array)` give wrong or empty data without an error.

Configuration it honours, under the C++ backend's names: `max_batch_size`, `instance_group`, and the
parameters `intra_op_thread_count`, `inter_op_thread_count`.
"""

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

MODEL_FILE = "model.onnx"


class TritonPythonModel:
    """One instance of one version of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file; Triton shows what this raises as the reason why the model did not load."""
        config = json.loads(args["model_config"])
        file = config.get("default_model_filename") or MODEL_FILE
        path = str(Path(args["model_repository"]) / args["model_version"] / file)
        self.session = onnxruntime.InferenceSession(path, _session_options(config), providers=["CPUExecutionProvider"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self._require_names(path)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests, in their order, from one run over all their images."""
        try:
            batches = [[_to_numpy(request, name) for name in self.inputs] for request in requests]
            answers = self._run(batches)
        except Exception as error:  # a request must get an answer, whatever happened
            if len(requests) == 1:
                return [_failure(error)]
            # One request's fault must not fail the batch that Triton happened to put it in.
            return [self.execute([request])[0] for request in requests]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor.from_dlpack(name, part) for name, part in zip(self.outputs, parts, strict=True)]
            )
            for parts in answers
        ]

    def finalize(self) -> None:
        """Let go of the session's memory."""
        self.session = None

    def _run(self, batches: list[list[Array]]) -> list[Any]:
        """Run the session once; return per request its part of every output."""
        if len(batches) == 1:
            return [self.session.run(self.outputs, dict(zip(self.inputs, batches[0], strict=True)))]
        columns = zip(*batches, strict=True)
        joined = {name: np.concatenate(parts) for name, parts in zip(self.inputs, columns, strict=True)}
        results = self.session.run(self.outputs, joined)
        ends = np.cumsum([len(batch[0]) for batch in batches])
        if any(len(result) != ends[-1] for result in results):
            raise ValueError(f"outputs of {[len(r) for r in results]} rows for {ends[-1]} rows of input")
        return list(zip(*(np.split(result, ends[:-1]) for result in results), strict=True))

    def _require_names(self, path: str) -> None:
        for what, configured, tensors in (
            ("input", self.inputs, self.session.get_inputs()),
            ("output", self.outputs, self.session.get_outputs()),
        ):
            known = [tensor.name for tensor in tensors]
            unknown = [name for name in configured if name not in known]
            if unknown:
                raise ValueError(f"config.pbtxt names {what} {unknown}, but {path} has {known}")


def _session_options(config: dict[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    instances = sum(group.get("count", 1) for group in config.get("instance_group", [])) or 1
    cores = len(os.sched_getaffinity(0))
    options.intra_op_num_threads = _parameter(config, "intra_op_thread_count") or max(1, cores // instances)
    options.inter_op_num_threads = _parameter(config, "inter_op_thread_count") or 1
    # Threads that spin while they wait take the core that the next request's thread needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _parameter(config: dict[str, Any], name: str) -> int:
    text = config.get("parameters", {}).get(name, {}).get("string_value", "0")
    if not text.isdigit():
        raise ValueError(f"parameter {name}={text!r} in config.pbtxt: give a whole number, 0 for the default")
    return int(text)


def _to_numpy(request: Any, name: str) -> Array:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise ValueError(f"input {name!r} is missing")
    return np.from_dlpack(tensor)


def _failure(error: Exception) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}"))
