"""How a command failed, as a program reads it: `{"error": {"code": 2, "message": "...", "remedy": "..."}}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resx.errors import ResxError

INTERRUPTED = 130
_ADVICE = re.compile(
    r"(add|build|change|check|choose|close|continue|copy|create|delete|did you mean|export|find|fix|free|give|install|"
    r"keep|leave|list|load|make|measure|name|pip|process|put|raise|remove|rename|repeat|restore|run|save|say|see|send|"
    r"serve|set|start|stop|train|try|unpack|untie|upgrade|use|wait|write|or give|`resx|--[a-z])(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a command failed."""

    code: int
    """The exit code."""
    message: str
    """The value and the rule."""
    remedy: str | None
    """What helps, if that is known."""

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints under `error`."""
        return asdict(self)


def failure_of(error: ResxError | KeyboardInterrupt) -> Failure:
    """Return an error as a program reads it."""
    if isinstance(error, KeyboardInterrupt):
        return Failure(code=INTERRUPTED, message="interrupted", remedy=None)
    return failure(str(error), error.exit_code)


def failure(text: str, code: int) -> Failure:
    """Return a failure of a message of one line: `value: rule; remedy`."""
    message, remedy = split_remedy(text.replace("\n", " "))
    return Failure(code=code, message=message, remedy=remedy)


def split_remedy(text: str) -> tuple[str, str | None]:
    """Split a message before the first part that says what to do: `value: rule; remedy`."""
    parts = text.split("; ")
    for index, part in enumerate(parts[1:], start=1):
        if _ADVICE.match(part):
            return "; ".join(parts[:index]), "; ".join(parts[index:])
    return text, None


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the options that were typed, even where others of them cannot be read."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options
