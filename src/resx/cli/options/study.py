"""What the studies of a run share: the run, its data, and where the figures go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from resx.cli.options.grouping import OUTPUT_PANEL

RunFolder: TypeAlias = Annotated[Path, typer.Argument(help="A run's folder.")]
StudiedData: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="DATA", help="digits, cifar10:DIR, cifar100:DIR or folder:DIR. Default: what the run trained on."
    ),
]
StudyFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="DIR",
        help="A folder for the study's JSON file and the figures.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Figures: TypeAlias = Annotated[
    bool, typer.Option(metavar="", help="Draw into the output folder.", rich_help_panel=OUTPUT_PANEL)
]
