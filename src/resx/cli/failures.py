"""How a command failed, as a program reads it: `{"error": {"code": 2, "message": "...", "remedy": "..."}}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resx.errors import ResxError
from resx.text import join_lines

INTERRUPTED = 130
_ADVICE = re.compile(
    # Behind a semicolon a word of advice, a command or an option; behind a colon words that mean nothing else there.
    r"; (?=(?:add|build|change|check|choose|close|continue|copy|create|delete|did you mean|export|find|fix|free|give|"
    r"install|keep|leave|list|load|make|measure|name|or give|pip|put|raise|remove|rename|repeat|restore|run|save|say|"
    r"see|send|serve|set|start|stop|train|try|unpack|untie|upgrade|use|wait|write|`resx|--[a-z-]+)(?![a-z]))"
    r"|: (?=(?:add|choose|give|name|remove|use) )"
)

_MISSING = re.compile(r"^Missing (?:option|argument) '(.+)'\.$")
"""Typer's words for what was not typed."""

_RULES = {
    "float_parsing": "give a number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
}
"""By pydantic's names of errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a command failed."""

    code: int
    """The exit code."""
    line: str
    """What a person reads: message and remedy."""
    message: str
    """The value and the rule."""
    remedy: str | None
    """What helps, if that is known."""

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints under `error`."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


def failure_of(error: ResxError | KeyboardInterrupt) -> Failure:
    """Return an error as a program reads it."""
    if isinstance(error, KeyboardInterrupt):
        return failure("interrupted", INTERRUPTED)
    return failure(str(error), error.exit_code)


def failure(text: str, code: int) -> Failure:
    """Return a failure of a message of one line: `value: rule; remedy`."""
    line = text.replace("\n", " ")
    message, remedy = split_remedy(line)
    return Failure(code=code, line=line, message=message, remedy=remedy)


def wrong_usage(error: Exception) -> Failure:
    """Return a failure of what Typer cannot read."""
    if found := _wrong_value(error):
        return failure(found, 2)
    message = _MISSING.sub(r"\1 is missing", join_lines(error.format_message()))  # type: ignore[attr-defined]
    return Failure(code=2, line=f"{message} (see --help)", message=message, remedy="see --help")


def _wrong_value(error: Exception) -> str:
    """Return the option, its value and the rule where pydantic, through which Typer reads values, refused a number."""
    option, refused = getattr(error, "param", None), getattr(error.__cause__, "errors", None)
    if option is None or refused is None:
        return ""
    first = refused()[0]
    rule = _RULES.get(first["type"], "")
    name = max(option.opts, key=len) if option.param_type_name == "option" else option.human_readable_name
    unit = ", in seconds" if option.metavar == "SECONDS" else ""
    return f"{name} {first['input']}: {rule.format(**first.get('ctx', {}))}{unit}" if rule else ""


def split_remedy(text: str) -> tuple[str, str | None]:
    """Split a message before the first words that say what to do: `value: rule; remedy`, or `value: remedy`."""
    found = _ADVICE.search(text)
    return (text[: found.start()], text[found.end() :]) if found else (text, None)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the options that were typed, even where others of them cannot be read."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options
