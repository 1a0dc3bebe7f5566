"""How a command prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import typer

from resx.cli.options.grouping import output_option
from resx.cli.output import Output

Json: TypeAlias = Annotated[bool, output_option("--json", metavar="", help="Print one JSON object on stdout.")]
Quiet: TypeAlias = Annotated[bool, output_option("-q", "--quiet", metavar="", help="Hide progress.")]
Wide: TypeAlias = Annotated[
    bool, output_option("--wide", metavar="", help="Show all columns of a table, however narrow the terminal is.")
]
Verbose: TypeAlias = Annotated[
    bool, output_option("-v", "--verbose", metavar="", help="Show details: operators, differences, hashes.")
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOptions(OutputOptions):
    """How to print a result with tables."""

    wide: Wide = False

    def open(self) -> Output:
        """Return where the command's words go."""
        return Output(as_json=self.json, quiet=self.quiet, wide=self.wide)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetailOptions(TableOptions):
    """How to print a result that has more to say than fits in a breath."""

    verbose: Verbose = False

    def open(self) -> Output:
        """Return where the command's words go."""
        return Output(as_json=self.json, quiet=self.quiet, wide=self.wide, verbose=self.verbose)
