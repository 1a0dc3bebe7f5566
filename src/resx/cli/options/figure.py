"""The figure that a command draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from resx.cli.options.grouping import OUTPUT_PANEL

Plot: TypeAlias = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw into a png, svg or pdf.", rich_help_panel=OUTPUT_PANEL),
]
