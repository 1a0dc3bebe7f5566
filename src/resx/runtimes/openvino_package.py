"""OpenVINO as a package: imported, old or missing, and what it can compute in on this processor."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from resx.errors import MissingCapability, first_line
from resx.machine import instruction_set, processor
from resx.runtimes.signal_stack import keep_signal_stack

_CAPABILITIES = "OPTIMIZATION_CAPABILITIES"
_REMEDY = "pip install 'resx[openvino]'"


def load_openvino() -> Any:
    """Import OpenVINO, which reports nothing to anybody (`resx.__init__`).

    Raises:
        MissingCapability: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError, RuntimeError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "openvino"
        reason = "is not installed" if absent else f"cannot be loaded ({first_line(error)})"
        raise MissingCapability(f"openvino {reason}; {_REMEDY}") from None


def new_core() -> Any:
    """Return a new Core, whose plugin for the CPU is loaded and has left this thread's signals alone (`signal_stack`).

    Raises:
        MissingCapability: as `load_openvino`.
    """
    core = load_openvino().Core()
    with keep_signal_stack():
        core.get_property("CPU", _CAPABILITIES)
    return core


def openvino_version() -> str:
    """Return OpenVINO's version, without its build.

    Raises:
        MissingCapability: as `load_openvino`.
    """
    return str(load_openvino().__version__).partition("-")[0]


def computes_in_bf16() -> bool:
    """Say whether OpenVINO has bf16 instructions to compute with on this processor.

    It is asked rather than tried: on AVX-512 without them it emulates bf16, slower than fp32.

    Raises:
        MissingCapability: as `load_openvino`.
    """
    return "BF16" in new_core().get_property("CPU", _CAPABILITIES)


def require_bf16(*, can_compute: Callable[[], bool] = computes_in_bf16) -> None:
    """Check that this processor computes in bf16; OpenVINO would take fp32, or emulate it, in silence.

    Args:
        can_compute: says whether it does.

    Raises:
        MissingCapability: it does not, or as `load_openvino`.
    """
    if not can_compute():
        raise MissingCapability(
            f"bf16: {processor()} ({instruction_set()}) has no BF16 instructions, according to OpenVINO; remove --bf16 "
            "here, or export on a processor with AVX512_BF16 or AMX"
        )


def require_int8() -> None:
    """Check that OpenVINO computes on 8-bit integers on this processor; it would take fp32 in silence.

    Raises:
        MissingCapability: it does not, or as `load_openvino`.
    """
    if "INT8" not in new_core().get_property("CPU", _CAPABILITIES):
        raise MissingCapability(
            f"int8: OpenVINO has no 8-bit kernels for {processor()} ({instruction_set()}), as it reports itself; use "
            "--runtime onnxruntime"
        )


def reason_of(error: Exception) -> str:
    """Return the line of an OpenVINO error that says something; the first ones name its own source files."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    return said[-1] if said else first_line(error)
