"""How a command prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import typer

from resx.cli.options.grouping import OUTPUT_PANEL
from resx.cli.output import Output

Json: TypeAlias = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT_PANEL)
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("-q", "--quiet", metavar="", help="Hide progress.", rich_help_panel=OUTPUT_PANEL)
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", metavar="", help="Show what would be done; change nothing.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """How to print."""

    json: Json = False
    quiet: Quiet = False

    def open(self) -> Output:
        """Return where the command's words go."""
        return Output(as_json=self.json, quiet=self.quiet)
