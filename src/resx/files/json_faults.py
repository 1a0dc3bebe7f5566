"""What is wrong with a JSON file of ours that cannot be read, and what to do: it may be a newer resx's."""

from __future__ import annotations

import json
import re

import pydantic

from resx._version import __version__
from resx.text import one_line

_VERSION = re.compile(r"(\d{1,4}(?:\.\d{1,4}){0,3})[A-Za-z0-9.+-]{0,32}")
_WRITERS = (("tools", "resx"), ("environment", "resx"), ("resx",))
"""Where a card, a benchmark's result and other files say which resx wrote them."""
_MAX_SHOWN = 200
"""Characters of a name or a value in a message."""


def first_fault(error: pydantic.ValidationError) -> str:
    """Return the first of what pydantic found wrong with a file, and where in it, in one short line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    return f"{_short(where)}: {_short(first['msg'].removeprefix('Value error, '))}"


def explain_fault(error: pydantic.ValidationError, content: bytes, remedy: str) -> str:
    """Return why a file cannot be read and what to do about it, in one line.

    Args:
        error: of the value that the file was to be.
        content: the whole file.
        remedy: for a file that no newer resx wrote.
    """
    writer = _writer(content)
    if writer and _release(writer) > _release(__version__):
        return f"written by resx {writer}, and this is {__version__}; upgrade resx to read it"
    found = error.errors(include_url=False, include_context=False, include_input=False)
    unknown = next((one for one in found if one["type"] == "extra_forbidden"), None)
    if unknown is None:
        return f"{first_fault(error)}; {remedy}"
    field = _short(".".join(str(part) for part in unknown["loc"]))
    what = f"field '{field}': this resx ({__version__}) does not know it"
    return f"{what}; {'' if writer else 'upgrade resx if a newer one wrote it, '}remove the field, or {remedy}"


def _writer(content: bytes) -> str:
    """Return which version of resx a file says that it is from; empty where it does not, or not in a usable way."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    for path in _WRITERS:
        found = whole
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, str) and _VERSION.fullmatch(found):
            return found
    return ""


def _release(version: str) -> tuple[int, ...]:
    known = _VERSION.fullmatch(version)
    return tuple(int(part) for part in known[1].split(".")) if known else ()


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}..."
