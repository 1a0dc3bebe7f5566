"""Run the experiments and write their page.

    python -m benchmarks.experiments                        all, five seeds (three of the longest), then the page
    python -m benchmarks.experiments degradation --seeds 3  one of them
    python -m benchmarks.experiments stochastic-depth --only resnet56 --only "8 epochs"
    python -m benchmarks.experiments --page                 write the page and its figures from the rows alone

A row is kept as soon as it is measured, so a run that is interrupted goes on where it stopped; so does one with more
seeds. Whatever comes out is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.experiments import page
from benchmarks.experiments.catalog import EXPERIMENTS
from benchmarks.experiments.rows import RowsFile
from benchmarks.experiments.running import Plan, run

from resx.errors import ResxError

DOCS = Path(__file__).parents[2] / "docs"
_FULL = 10


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--seeds", type=int, help="seeds of every variant, from 0 on (default: 5; 3 of the longest)")
    parser.add_argument("--full", action="store_true", help=f"{_FULL} seeds")
    parser.add_argument("--only", action="append", default=[], help="run rows whose key holds this text; repeat it")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train side by side")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page from the rows")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of rows, page and figures")
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="folder of trained networks")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in EXPERIMENTS]:
        parser.error(f"{unknown[0]}: no such experiment; give {', '.join(EXPERIMENTS)}")
    for name, number in ("--seeds", options.seeds), ("--jobs", options.jobs):
        if number is not None and number < 1:
            parser.error(f"{name} {number}: give 1 or more")

    file = RowsFile(path=options.docs / "experiments" / "rows.json")
    plan = Plan(
        experiments=[EXPERIMENTS[name] for name in options.names or EXPERIMENTS],
        num_seeds=_FULL if options.full else options.seeds,
        only=options.only,
    )
    try:
        if not options.page:
            run(plan, file, options.runs, options.jobs)
        for path in page.write(list(file.read().values()), options.docs):
            print(path)
    except ResxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
