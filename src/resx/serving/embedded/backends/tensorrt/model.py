"""Triton backends `tensorrt` and `tensorrt_rtx` in Python, for the embedded server.

The same files are put into `backends/tensorrt/` and `backends/tensorrt_rtx/`; config.pbtxt's backend says which of
NVIDIA's packages opens the engine. So a repository whose models say `backend: "tensorrt"`, or
`platform: "tensorrt_plan"`, is served here by this file and in NVIDIA's container by the C++ backend, from the same
bytes. `tensorrt_rtx` is for engines of TensorRT for RTX, for which the container has no backend.
The server's Python runs it; it imports numpy, the package and the files beside it, nothing of resx.

What of config.pbtxt it honours, in the C++ backend's words (tensorrt_backend, README):

    instance_group   kind KIND_GPU, gpus, count; profile: the number of one optimization profile, 0 by default
    default_model_filename

Each instance is a process with its own engine, execution context, stream and memory. What the file says where
config.pbtxt does not (`auto_complete_config`) is filled in. `optimization.cuda` (graphs, busy waiting, a stream for
outputs) changes only how the C++ backend runs a plan, and nothing here.
"""

import json
from pathlib import Path
from typing import Any

import engine_runs
import engine_session
import file_interface
import request_batches
import triton_python_backend_utils as pb_utils


class TritonPythonModel(request_batches.BatchingModel):
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Fill in what config.pbtxt leaves out, from the file; as the C++ backend's AutoCompleteConfig does."""
        described = config.as_dict()
        if not (described.get("input") and described.get("output")):
            path = engine_session.model_path(pb_utils.get_model_dir(), described)
            opened = engine_session.open_model(path, described, "GPU")
            try:
                file_interface.complete(described, *opened.interface, opened.run.largest_batch)
            finally:
                opened.close()
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine; Triton shows what this raises as the reason why the model did not load."""
        config = json.loads(args["model_config"])
        path = engine_session.model_path(str(Path(args["model_repository"]) / args["model_version"]), config)
        kind, device = args.get("model_instance_kind", "CPU"), int(args.get("model_instance_device_id", "0"))
        self.opened = engine_session.open_model(path, config, kind, device)
        self.run = self.opened.run
        self.prepare(config, path, *self.opened.interface)

    def join(self, name: str, arrays: "list[engine_runs.Array]") -> engine_runs.Array:
        """Return the rows of several requests as one batch, where the GPU fetches them."""
        return self.opened.run.join(name, arrays)

    def finalize(self) -> None:
        """Let go of the GPU's memory."""
        self.opened.close()
