"""Triton backend `onnxruntime` in Python, for the embedded server.

A folder `backends/onnxruntime/` with this file is a backend of that name, so a repository whose models say
`backend: "onnxruntime"` is served here by this file and in NVIDIA's container by the C++ backend, from the
same bytes. The server's Python runs it; it imports numpy, onnxruntime and the files beside it, nothing of resx.

`session_settings.py` says what of config.pbtxt it honours, `onnx_session.py` how the file is opened. What the file says
where config.pbtxt does not is filled in (`auto_complete_config`).
"""

import json
import os
from pathlib import Path
from typing import Any

import onnx_session
import request_batches
import session_settings
import triton_python_backend_utils as pb_utils

CORES_VARIABLE = "RESX_SERVER_CORES"
"""What the instances share, as whoever started the server found it, a CPU quota included; else those of the mask."""


class TritonPythonModel(request_batches.BatchingModel):
    """One instance of one version of a model."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Fill in what config.pbtxt leaves out, from the file; as the C++ backend's AutoCompleteConfig does."""
        described = config.as_dict()
        if not (described.get("input") and described.get("output")):
            path = onnx_session.model_path(pb_utils.get_model_dir(), described)
            onnx_session.complete(described, onnx_session.open_session(path, {}, _host()))
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file; Triton shows what this raises as the reason why the model did not load."""
        config = json.loads(args["model_config"])
        path = onnx_session.model_path(str(Path(args["model_repository"]) / args["model_version"]), config)
        kind, device = args.get("model_instance_kind", "CPU"), int(args.get("model_instance_device_id", "0"))
        opened = onnx_session.open_model(path, config, _host(), kind, device)
        self.session, self.run, self.run_options = opened
        self.prepare(config, path, *opened.interface)

    def finalize(self) -> None:
        """Let go of the session's memory."""
        self.session = self.run = None


def _host() -> session_settings.Host:
    cores = int(os.environ.get(CORES_VARIABLE, "0")) or len(os.sched_getaffinity(0))
    return session_settings.Host(cores, session_settings.ERRORS_ALONE)
