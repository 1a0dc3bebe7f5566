"""Which model repository a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

DEFAULT_REPOSITORY = Path("model_repository")

RepositoryPath: TypeAlias = Annotated[
    Path, typer.Option("--repository", metavar="DIR", help="The model repository.", envvar="RESX_REPOSITORY")
]
Version: TypeAlias = Annotated[int, typer.Option(min=0, metavar="N", help="0: the newest.")]
