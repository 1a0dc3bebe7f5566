"""Which model repository a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from resx.cli import command_lines
from resx.cli.completion import complete_version

DEFAULT_REPOSITORY = command_lines.DEFAULT_REPOSITORY

RepositoryPath: TypeAlias = Annotated[
    Path, typer.Option("--repository", metavar="DIR", help="The model repository.", envvar="RESX_REPOSITORY")
]
Version: TypeAlias = Annotated[
    int, typer.Option(min=0, metavar="N", help="Version; 0: the newest.", autocompletion=complete_version)
]
