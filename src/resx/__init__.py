"""resx: from a name of the ResNet family to a measured, served model."""

from __future__ import annotations

import os

from resx._version import __version__
from resx.api import build, fold, list_models

__all__ = ["__version__", "build", "fold", "list_models"]

# Nothing is reported to anybody. onnxruntime's wheel looks up a host of Microsoft's and writes a device id into the
# home folder as soon as it is loaded; its own `disable_telemetry_events()` comes too late for both. It stands here so
# that it is set before any module of resx loads it, and in all that is started from here: workers, Triton, its stubs.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
