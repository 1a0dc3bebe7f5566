"""Commands of resx as one types them: a result proposes one, and it works as it is printed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

DEFAULT_REPOSITORY = Path("model_repository")


def command_line(*words: str | Path) -> str:
    """Return a command of resx, quoted for a shell."""
    return shlex.join(["resx", *map(str, words)])


def in_repository(root: Path) -> list[str]:
    """Return the options that lead to the same repository; none for the default one."""
    return [] if root == DEFAULT_REPOSITORY else ["--repository", str(root)]


def typed_again(*more: str, without: str = "") -> str:
    """Return the command that was typed, changed; empty where it names a header, which may be a secret.

    Args:
        more: words to add.
        without: a word to leave out.
    """
    words = sys.argv[1:]
    if any(word.partition("=")[0] == "--header" for word in words):
        return ""
    return command_line(*(word for word in words if word != without), *more)
