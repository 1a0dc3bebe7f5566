"""How far a run is shrunk, and how its blocks are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import finite
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.analysis.shrink.search import SearchOptions

_TARGET, _SEARCH = "Target: one of", "Search"

Drop: TypeAlias = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Number of blocks to remove.", rich_help_panel=_TARGET)
]
MaxAccuracyDrop: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        callback=finite,
        metavar="POINTS",
        help="Remove blocks while held-out accuracy falls by at most this many points.",
        rich_help_panel=_TARGET,
    ),
]
Latency: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        callback=finite,
        metavar="MS",
        help="Target latency in ms, measured in onnxruntime.",
        rich_help_panel=_TARGET,
    ),
]
Pareto: TypeAlias = Annotated[
    bool, typer.Option("--pareto", metavar="", help="Keep every Pareto-optimal size.", rich_help_panel=_TARGET)
]
Recalibrate: TypeAlias = Annotated[
    bool,
    typer.Option(metavar="", help="Fit batch norms to training images after each removal.", rich_help_panel=_SEARCH),
]
SearchImages: TypeAlias = Annotated[
    int, typer.Option(min=1, metavar="N", help="Training images that blocks are chosen on.", rich_help_panel=_SEARCH)
]
Shortlist: TypeAlias = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Blocks tried with fitted batch norms before one goes.", rich_help_panel=_SEARCH
    ),
]
AtRandom: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--random", metavar="", help="Drop random blocks, as a baseline for a search.", rich_help_panel=_SEARCH
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSize:
    """How small a network has to become."""

    drop: Drop = None
    max_accuracy_drop: MaxAccuracyDrop = None
    latency: Latency = None
    pareto: Pareto = False

    def __post_init__(self) -> None:
        given = (self.drop is not None, self.max_accuracy_drop is not None, self.latency is not None, self.pareto)
        if sum(given) != 1:
            raise UsageError("resx shrink: how far? give one of --drop, --max-accuracy-drop, --latency and --pareto")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockSearch:
    """How blocks are chosen."""

    recalibrate: Recalibrate = True
    search_images: SearchImages = 256
    shortlist: Shortlist = 4
    random: AtRandom = False

    def options(self, *, seed: int) -> SearchOptions:
        """Return what the search takes."""
        from resx.analysis.shrink.search import SearchOptions

        return SearchOptions(
            num_images=self.search_images,
            shortlist=self.shortlist,
            seed=seed,
            at_random=self.random,
            num_recalibration_images=SearchOptions().num_recalibration_images if self.recalibrate else 0,
        )
