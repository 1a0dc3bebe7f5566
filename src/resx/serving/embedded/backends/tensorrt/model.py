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

import engine_runs
import engine_session
import file_model


class TritonPythonModel(file_model.FileModel):
    """One instance of one version of a model."""

    opener = engine_session

    def join(self, name: str, arrays: "list[engine_runs.Array]") -> engine_runs.Array:
        """Return the rows of several requests as one batch, where the GPU fetches them."""
        return self.opened.run.join(name, arrays)
