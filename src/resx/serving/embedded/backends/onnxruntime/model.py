"""Triton backend `onnxruntime` in Python, for the embedded server.

A folder `backends/onnxruntime/` with this file is a backend of that name, so a repository whose models say
`backend: "onnxruntime"` is served here by this file and in NVIDIA's container by the C++ backend, from the
same bytes. The server's Python runs it; it imports numpy, onnxruntime and the files beside it, nothing of resx.

`session_settings.py` says what of config.pbtxt it honours, `onnx_session.py` how the file is opened. What the file says
where config.pbtxt does not is filled in (`auto_complete_config`).
"""

import file_model
import onnx_session


class TritonPythonModel(file_model.FileModel):
    """One instance of one version of a model."""

    opener = onnx_session
