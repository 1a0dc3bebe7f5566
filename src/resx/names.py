"""Names of models, classes and tensors: what stands in them, checked before they become a path or a line of a file.

And words of a setting, which are one of a few.
"""

from __future__ import annotations

import re
from typing import TypeVar

from resx.errors import UsageError
from resx.text import one_line

Word = TypeVar("Word", bound=str)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def checked_name(name: str) -> str:
    """Return `name` if it can be a folder of a model repository and a part of a URL.

    Raises:
        UsageError: it is empty, has a path separator, or has characters other than `A-Za-z0-9._-`.
    """
    if not is_model_name(name):
        raise UsageError(
            f"name {name!r}: give 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    return name


def is_model_name(name: str) -> bool:
    """Say whether `name` can be a folder of a model repository and a part of a URL."""
    return _NAME.fullmatch(name) is not None


def choose(option: str, value: str, known: tuple[Word, ...]) -> Word:
    """Return `value` as one of the known words.

    Raises:
        UsageError: it is none of them.
    """
    for word in known:
        if word == value:
            return word
    raise UsageError(f"{option} {value}: give one of {', '.join(known)}")


def parse_name(text: str) -> tuple[str, int | None]:
    """Return NAME and, if it is said, VERSION.

    Raises:
        UsageError: the version is no number.
    """
    name, colon, version = text.partition(":")
    if colon and not version.isdecimal():
        raise UsageError(f"{text}: give NAME or NAME:VERSION")
    return name, int(version) if colon else None


_MOST_IN_LABEL = 1000


LABEL_RULE = f"a class's name is one line of UTF-8 without control characters, of at most {_MOST_IN_LABEL:,} characters"


MAX_TENSOR_NAME = 256


TENSOR_RULE = (
    f"the name of an input or output is 1 to {MAX_TENSOR_NAME} characters without quotes, backslashes and control "
    "characters"
)


def is_label(text: str, *, with_tabs: bool = False) -> bool:
    """Say whether a class can have this name (LABEL_RULE): labels.txt has a line for each class, and cards are JSON.

    Args:
        text: the name.
        with_tabs: allow tabs, which files of labels have between a synset and its words.
    """
    line = text.replace("\t", " ") if with_tabs else text
    return 0 < len(line) <= _MOST_IN_LABEL and one_line(line) == line


def is_tensor_name(text: str) -> bool:
    """Say whether resx takes this as the name of an input or output (TENSOR_RULE): it goes into other formats."""
    return 0 < len(text) <= MAX_TENSOR_NAME and one_line(text) == text and not set(text) & set("\"'`\\")
