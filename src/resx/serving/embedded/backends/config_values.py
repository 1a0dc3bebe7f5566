"""What the Python backends read out of config.pbtxt alike, and what it does not say: of the process that they are in.

In the server it lies beside a backend's `model.py`; elsewhere it is a module of resx. It imports the standard library.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

CORES_VARIABLE = "RESX_SERVER_CORES"
"""What the instances share, as whoever started the server found it, a CPU quota included; else those of the mask."""
ERRORS_ALONE, SILENT = 3, 4
"""Of a runtime's own log, by onnxruntime's numbers."""
SPINNING, SPIN_DURATION = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"
"""onnxruntime's parameters for threads that ran out of work: whether they wait busily, and for how long."""
SPIN_US, MAX_SPIN_US = 200, 1_000_000
"""The first, the default, covers the gaps between the operators of a run: a lone request gains as much by it as by any
longer time, and it takes the least from others where the cores are busy; `benchmarks/spinning.py` measures both."""


class Host(NamedTuple):
    """What config.pbtxt does not say: of the process that a model is opened in."""

    cores: int
    """That the instances share, a CPU quota included."""
    log_severity: int
    """In a server errors, as the log is the server's; elsewhere nothing, as they come as exceptions too, and what
    a runtime would write to stderr has names of the file in it as they are."""


def server_host() -> Host:
    """Return what an instance inside the server shares with others."""
    return Host(int(os.environ.get(CORES_VARIABLE, "0")) or len(os.sched_getaffinity(0)), ERRORS_ALONE)


def num_instances(config: Mapping[str, Any]) -> int:
    """Return how many instances a configuration asks for: `count` of a group on each GPU that it names."""
    groups = config.get("instance_group", [])
    return sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups) or 1


def fair_share(config: Mapping[str, Any], cores: int) -> int:
    """Return the threads of one instance where all of them share the cores evenly."""
    return max(1, cores // num_instances(config))


def text(config: Mapping[str, Any], name: str) -> str:
    """Return a parameter's value; empty where there is none."""
    return str(config.get("parameters", {}).get(name, {}).get("string_value", "")).strip()


def count(config: Mapping[str, Any], name: str, most: int = 1024, *, zero: str = "0 (the default)") -> int:
    """Return a parameter that is a number; 0 where there is none. `zero` is what a refusal calls 0.

    Raises:
        ValueError: it is none, or above `most`.
    """
    value = text(config, name) or "0"
    if not (value.isascii() and value.isdecimal()) or len(value) > len(str(most)) or int(value) > most:
        raise ValueError(f"parameter {name}={value!r} in config.pbtxt: give {zero} to {most}")
    return int(value)


def flag(config: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a parameter that is on or off.

    Raises:
        ValueError: it is neither.
    """
    value = text(config, name).lower()
    if value not in ("", "0", "1", "false", "true"):
        raise ValueError(f"parameter {name}={value!r} in config.pbtxt: give 0 or 1")
    return value in ("1", "true") if value else default


def word(config: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    """Return a parameter that is one of these words, in any case as NVIDIA's backends read them; empty without one.

    Raises:
        ValueError: it is none of them.
    """
    value = text(config, name).upper()
    if value and value not in known:
        raise ValueError(f"parameter {name}={text(config, name)!r} in config.pbtxt: give {' or '.join(known)}")
    return value
