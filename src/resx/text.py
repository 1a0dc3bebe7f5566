"""Text of whatever origin as one can print it: what would steer a terminal is shown escaped."""

from __future__ import annotations

import re

# Python keeps a byte 0x80 + n that it could not decode as U+DC80 + n (PEP 383); other surrogates were never bytes.
_BYTES, _SURROGATE = re.compile(r"[\udc80-\udcff]+"), re.compile(r"[\ud800-\udfff]")

# C0 and C1 (escape sequences, NEL), the two separators of Unicode, and what reorders the text around it (Unicode's
# Bidi_Control). What joins letters or emoji without a width of its own is text, and stays.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return text that JSON, Parquet and UTF-8 can hold: bytes that were no UTF-8 are shown escaped, as `\xff`."""
    decoded = _BYTES.sub(
        lambda found: found[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), text
    )
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", decoded)


def one_line(text: str) -> str:
    """Return text that a terminal shows as one line and takes no orders from: control characters are escaped too."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], printable(text))


def join_lines(text: str) -> str:
    """Return text of several lines as one, with a space for each run of spaces and line ends."""
    return " ".join(text.split())


def readable(text: str) -> str:
    """Return text of several lines as `one_line` shows each of them; a tab stays a tab."""
    parts = re.split(r"([\n\t])", text)
    return "".join(part if part in {"\n", "\t"} else one_line(part) for part in parts)
