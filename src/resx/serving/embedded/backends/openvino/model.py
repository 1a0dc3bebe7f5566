"""Triton backend `openvino` in Python, for the embedded server.

A folder `backends/openvino/` with this file is a backend of that name, so a repository whose models say
`backend: "openvino"` is served here by this file and in NVIDIA's container by the C++ backend, from the same bytes.
The server's Python runs it; it imports numpy, openvino and the files beside it, nothing of resx.

`compile_settings.py` says what of config.pbtxt it honours, `openvino_session.py` how the file is opened. What the file
says where config.pbtxt does not is filled in (`auto_complete_config`).
"""

import file_model
import openvino_session


class TritonPythonModel(file_model.FileModel):
    """One instance of one version of a model."""

    opener = openvino_session
