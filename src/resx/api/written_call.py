"""A call of the library as text: what a card records in place of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def written_call(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """Return `resx.NAME(...)` with the arguments that differ from their defaults; functions are left out."""
    shown = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = given[name]
        if value == parameter.default or callable(value):
            continue
        value = str(value) if isinstance(value, Path) else value
        shown.append(f"{name}={value!r}" if parameter.kind is parameter.KEYWORD_ONLY else repr(value))
    return f"resx.{function.__name__}({', '.join(shown)})"
