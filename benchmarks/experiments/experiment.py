"""What every experiment is: settings to train, a measurement of each trained network, claims, a section, figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.experiments.pairing import LEAST_SEEDS, Interval, Verdict, interval
from benchmarks.experiments.rows import Row, by_variant
from benchmarks.experiments.training import Setting, Trained

from resx.figures import Look

HE_2015, HE_2016 = "He et al. 2015, arXiv:1512.03385", "He et al. 2016, arXiv:1603.05027"
HUANG_2016, VEIT_2016 = "Huang et al. 2016, arXiv:1603.09382", "Veit et al. 2016, arXiv:1605.06431"
LIU_2018 = "Liu et al. 2018, arXiv:1810.05270"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a paper says, and what the rows say of it."""

    source: str
    """The paper, and the table or section."""
    says: str
    figure: str
    """The paper's own, or a dash where it prints none."""
    ours: str
    num_seeds: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A figure of the page."""

    name: str
    caption: str
    x: str
    y: str
    draw: Callable[[Any, Look], None]
    """Draws on matplotlib's axes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What an experiment measures of a trained network."""

    values: dict[str, float]
    series: dict[str, tuple[float, ...]]


Analysis: TypeAlias = Callable[[Trained, int], Measured]
"""Measures a trained network; the seed decides what is drawn at random."""


def enough_seeds(_setting: Setting) -> int:
    """Return the seeds that can decide a claim."""
    return LEAST_SEEDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One question, from the networks that are trained to what is printed."""

    name: str
    title: str
    settings: tuple[Setting, ...]
    claims: Callable[[Sequence[Row]], list[Claim]]
    charts: Callable[[Sequence[Row]], list[Chart]]
    notes: str
    """What a reader of the section has to know."""
    columns: tuple[tuple[str, str, float, int], ...] = ()
    """Of the section's table besides those of training: title, measure, scale, digits."""
    analyze: Analysis | None = None
    num_seeds: Callable[[Setting], int] = enough_seeds
    """Of each setting: fewer where all of them would take more than 90 minutes on two cores."""


TRAINING_COLUMNS = (
    ("training loss", "loss", 1.0, 3),
    ("training error, %", "training_error", 100.0, 2),
    ("held-out accuracy, %", "accuracy", 100.0, 2),
    ("processor time, s", "seconds", 1.0, 0),
)


def table(experiment: Experiment, rows: Sequence[Row]) -> list[str]:
    """Return a line for each variant: means over its seeds, lowest and highest behind them."""
    columns = (*TRAINING_COLUMNS, *experiment.columns)
    lines = [
        f"| network | data | epochs | seeds | {' | '.join(title for title, *_ in columns)} |",
        f"|---|---|--:|--:|{'--:|' * len(columns)}",
    ]
    for group in by_variant(rows):
        first = group[0]
        cells = [_cell(group, name, scale, digits) for _, name, scale, digits in columns]
        lines.append(f"| {first.network} | {first.data} | {first.epochs} | {len(group)} | {' | '.join(cells)} |")
    return lines


def _cell(rows: Sequence[Row], name: str, scale: float, digits: int) -> str:
    known = [scale * number for row in rows if not row.diverged and (number := row.measure(name)) is not None]
    num_diverged = sum(row.diverged for row in rows)
    if not known:
        return "diverged" if num_diverged else "-"
    mean = sum(known) / len(known)
    spread = f" ({min(known):.{digits}f} to {max(known):.{digits}f})" if len(known) > 1 else ""
    return f"{mean:.{digits}f}{spread}{f', {num_diverged} diverged' if num_diverged else ''}"


def variant_rows(rows: Sequence[Row], network: str, *, data: str = "", epochs: int = 0) -> list[Row]:
    """Return the rows of a network, and of that data and number of epochs where they are given."""
    return [
        row
        for row in rows
        if row.network == network and (not data or row.data == data) and (not epochs or row.epochs == epochs)
    ]


def mean_of(rows: Sequence[Row], name: str) -> Interval:
    """Return the interval of a measurement over the seeds."""
    return interval([number for row in rows if (number := row.measure(name)) is not None])
