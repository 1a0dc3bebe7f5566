"""What the studies of a run share: the run, its data, and where the figures go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from resx.cli.completion import complete_run
from resx.cli.options.grouping import output_option

RunFolder: TypeAlias = Annotated[Path, typer.Argument(help="A run's folder.", autocompletion=complete_run)]
StudiedData: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="digits, mnist5k, cifar10:DIR, cifar100:DIR or folder:DIR. Default: what the run trained on.",
    ),
]
StudyFolder: TypeAlias = Annotated[
    Path | None,
    output_option("-o", "--output", metavar="DIR", help="A folder for the study's JSON file and the figures."),
]
Figures: TypeAlias = Annotated[bool, output_option(metavar="", help="Draw the figures into the output folder.")]
