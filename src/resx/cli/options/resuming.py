"""Going on with what an earlier command began, or beginning anew."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from resx.cli.options.grouping import OUTPUT_PANEL

Resume: TypeAlias = Annotated[
    bool, typer.Option("--resume", metavar="", help="Continue what is in the output.", rich_help_panel=OUTPUT_PANEL)
]
Force: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--force", metavar="", help="Delete what is in the output and start over.", rich_help_panel=OUTPUT_PANEL
    ),
]
IgnoreTimes: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--ignore-times",
        metavar="",
        help="With --resume: accept files with other modification times.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
