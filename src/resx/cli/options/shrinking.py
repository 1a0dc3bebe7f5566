"""How far a run is shrunk, and how its blocks are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import finite
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.analysis.shrink.search import SearchOptions

_target_option = partial(typer.Option, rich_help_panel="Target: one of")
_search_option = partial(typer.Option, rich_help_panel="Search")

Drop: TypeAlias = Annotated[int | None, _target_option(min=1, metavar="N", help="Number of blocks to remove.")]
MaxAccuracyDrop: TypeAlias = Annotated[
    float | None,
    _target_option(
        min=0,
        max=100,
        callback=finite,
        metavar="POINTS",
        help="Remove blocks while held-out accuracy falls by at most this many points.",
    ),
]
Latency: TypeAlias = Annotated[
    float | None,
    _target_option(min=1e-6, callback=finite, metavar="MS", help="Target latency in ms, measured in onnxruntime."),
]
Pareto: TypeAlias = Annotated[bool, _target_option("--pareto", metavar="", help="Keep every Pareto-optimal size.")]
Recalibrate: TypeAlias = Annotated[
    bool, _search_option(metavar="", help="Fit batch norms to training images after each removal.")
]
SearchImages: TypeAlias = Annotated[
    int, _search_option(min=1, metavar="N", help="Training images that blocks are chosen on.")
]
Shortlist: TypeAlias = Annotated[
    int, _search_option(min=1, metavar="N", help="Blocks tried with fitted batch norms before one goes.")
]
AtRandom: TypeAlias = Annotated[
    bool, _search_option("--random", metavar="", help="Drop random blocks, as a baseline for a search.")
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
            raise UsageError("resx shrink: choose one target: --drop, --max-accuracy-drop, --latency and --pareto")


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
