"""The figure that a command draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from resx.cli.options.grouping import output_option

Plot: TypeAlias = Annotated[
    Path | None,
    output_option(
        "--plot", metavar="FILE", help="Draw a figure into a .png, .svg or .pdf file (NAME-dark.svg: for dark pages)."
    ),
]
