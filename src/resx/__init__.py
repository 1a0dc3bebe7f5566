"""Train, export, serve and benchmark ResNet-family models."""

from __future__ import annotations

import os
import sys

from resx._version import __version__
from resx.api import build, fold, list_models

__all__ = ["__version__", "build", "fold", "list_models"]

# Nothing is reported to anybody. onnxruntime's wheel looks up a host of Microsoft's and writes a device id into the
# home folder as soon as it is loaded; its own `disable_telemetry_events()` comes too late for both. It stands here so
# that it is set before any module of resx loads it, and in all that is started from here: workers, Triton, its stubs.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# The same for OpenVINO and NNCF: as soon as it is imported, `openvino` tells Google Analytics and writes an id into
# ~/intel, which no variable forbids. Without this package, which both take for optional, they report nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
