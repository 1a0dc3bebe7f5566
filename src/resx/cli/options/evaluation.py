"""Which labeled images a model is evaluated on, and what is made of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.grouping import output_option
from resx.cli.options.validation import choose
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.scoring.evaluation.comparing import ImagesAsked

_option = partial(typer.Option, rich_help_panel="Images")

EvaluationData: TypeAlias = Annotated[
    str,
    _option(
        metavar="DATA",
        help="digits, mnist5k, cifar10:DIR, cifar100:DIR or folder:DIR. Default: the data that the run was trained on.",
    ),
]
PartName: TypeAlias = Annotated[
    str, _option(metavar="[held-out|train|all]", help="Part of the data; held-out: never trained on.")
]
SkipBad: TypeAlias = Annotated[bool, _option("--skip-bad", metavar="", help="Skip images that cannot be read.")]
ByPosition: TypeAlias = Annotated[
    bool, _option("--by-position", metavar="", help="Match classes by position, not by name.")
]
Page: TypeAlias = Annotated[
    Path | None,
    output_option("-o", "--output", metavar="FILE", help="Write one HTML file with charts and confused images."),
]
EveryClass: TypeAlias = Annotated[bool, output_option("--all", metavar="", help="Show every class.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesWanted:
    """Which images, and how their classes are matched with the model's."""

    data: EvaluationData = ""
    part: PartName = "held-out"
    skip_bad: SkipBad = False
    classes_by_position: ByPosition = False

    def asked(self) -> ImagesAsked:
        """Return them as an evaluation takes them.

        Raises:
            UsageError: there is no such part.
        """
        from resx.scoring.evaluation.comparing import ImagesAsked
        from resx.scoring.evaluation.images import PARTS

        return ImagesAsked(
            data=self.data,
            part=choose("--part", self.part, PARTS),
            skip_bad=self.skip_bad,
            classes_by_position=self.classes_by_position,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationOutput:
    """What is shown and written."""

    page: Page = None
    every_class: EveryClass = False

    def require_writable(self) -> None:
        """Check the page's name and place before anything is computed.

        Raises:
            UsageError: it cannot be written.
        """
        from resx.bench.result_files import ResultFiles

        if self.page is None:
            return
        if self.page.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"-o {self.page}: an HTML page is written; use a name that ends in .html (JSON: --json)")
        ResultFiles(html=self.page).require_writable()
