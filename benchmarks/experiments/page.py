"""The page of the experiments, from their rows alone: every claim with its verdict, then a section for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.catalog import EXPERIMENTS
from benchmarks.experiments.drawing import write_charts
from benchmarks.experiments.experiment import Claim, Experiment, table
from benchmarks.experiments.rows import Row, of_experiment

from resx.files.staging import write_atomic

_INTRODUCTION = """# Experiments

The papers' claims, tried on small data: scikit-learn's digits (1,442 images to train on, 355 held out; both parts share
their writers) and 5,000 images of MNIST (1,000 and 4,000), at 16 pixels. `make experiments` runs all of them and writes
this page; `make degradation`, `preactivation`, `stochastic-depth`, `lesions`, `paths` and `shrinking` run one. The rows
are in [experiments/rows.json](experiments/rows.json); a run adds what is missing. `make experiments
EXPERIMENTS_OPTIONS=--full` takes ten seeds.

Variants are compared seed by seed. An interval is Student's, at 95 %, of the difference over the seeds. *agrees*: the
interval lies on the side that the paper says. *does not*: it lies on the other side. *not decided*: it includes zero,
or there are fewer than five seeds. These are networks of minutes, not of days: a claim that is not decided here is not
refuted, and one that agrees is shown for these data only. One held-out image of the digits is 0.28 points, so with few
seeds an interval can be narrower than it should be, even of no width where the seeds agree to the image.
"""

_NEXT = "**Next:** [Training](training.md) has the recipes; [Lesion results](ensembles.md) has larger networks."


def write(rows: Sequence[Row], docs: Path) -> list[Path]:
    """Write experiments.md and its figures below `docs` and return the files."""
    charts = [chart for one in _measured(rows) for chart in one.charts(of_experiment(rows, one.name))]
    path = docs / "experiments.md"
    docs.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text(rows))
    return [path, *write_charts(charts, docs / "assets")]


def text(rows: Sequence[Row]) -> str:
    """Return the page."""
    lines = [_INTRODUCTION, "## What agrees", "", *_claims(rows)]
    for experiment in EXPERIMENTS.values():
        lines += _section(experiment, of_experiment(rows, experiment.name))
    return "\n".join([*lines, "", _NEXT]) + "\n"


def _measured(rows: Sequence[Row]) -> list[Experiment]:
    names = {row.experiment for row in rows}
    return [experiment for name, experiment in EXPERIMENTS.items() if name in names]


def _claims(rows: Sequence[Row]) -> list[str]:
    lines = ["| paper | claim | its figure | here | seeds | verdict |", "|---|---|---|---|--:|---|"]
    for experiment in _measured(rows):
        lines += map(_line, experiment.claims(of_experiment(rows, experiment.name)))
    return lines


def _line(claim: Claim) -> str:
    seeds = claim.num_seeds or "-"
    return f"| {claim.source} | {claim.says} | {claim.figure} | {claim.ours} | {seeds} | **{claim.verdict}** |"


def _section(experiment: Experiment, rows: Sequence[Row]) -> list[str]:
    lines = ["", f"## {experiment.title}", "", experiment.notes, ""]
    if not rows:
        return [*lines, f"No rows yet: `make {experiment.name}` measures them."]
    lines += table(experiment, rows)
    for chart in experiment.charts(rows):
        lines += [
            "",
            *(
                f"![{chart.caption}](assets/experiments-{chart.name}-{look}.svg#only-{look})"
                for look in ("light", "dark")
            ),
        ]
    return lines
