"""Which model repository a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from resx.cli import command_lines
from resx.cli.completion import complete_version
from resx.errors import UsageError

DEFAULT_REPOSITORY = command_lines.DEFAULT_REPOSITORY

RepositoryPath: TypeAlias = Annotated[
    Path, typer.Option("--repository", metavar="DIR", help="The model repository.", envvar="RESX_REPOSITORY")
]
Version: TypeAlias = Annotated[
    int, typer.Option(min=0, metavar="N", help="0: the newest.", autocompletion=complete_version)
]


def parse_name(text: str) -> tuple[str, int | None]:
    """Return NAME and, if it is said, VERSION.

    Raises:
        UsageError: the version is no number.
    """
    name, colon, version = text.partition(":")
    if colon and not version.isdecimal():
        raise UsageError(f"{text}: give NAME or NAME:VERSION")
    return name, int(version) if colon else None
