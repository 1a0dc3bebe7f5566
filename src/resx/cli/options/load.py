"""What a benchmark sends, and what is searched for or compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import choose, finite
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.bench.load.load_plan import LoadPlan

_LOAD, _STUDY, _INPUT = "Load", "Search and comparison", "Input and checks"

Concurrency: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="N,...",
        help="Closed loop, in-flight requests: a number, a list, or 1:16 (1, 2, 4, 8, 16).",
        rich_help_panel=_LOAD,
    ),
]
Rate: TypeAlias = Annotated[
    str,
    typer.Option(metavar="N,...", help="Open loop, requests per second: a number or a list.", rich_help_panel=_LOAD),
]
Arrivals: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="Open-loop arrivals: poisson or constant.", rich_help_panel=_LOAD)
]
BatchSize: TypeAlias = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, metavar="N", help="Images per request.", rich_help_panel=_LOAD)
]
Duration: TypeAlias = Annotated[
    float | None,
    typer.Option(
        callback=finite,
        metavar="SECONDS",
        help="Seconds to measure, per load. Default: 10; 3 with --compare.",
        rich_help_panel=_LOAD,
    ),
]
Warmup: TypeAlias = Annotated[
    float,
    typer.Option(callback=finite, metavar="SECONDS", help="Warm-up in seconds, not counted.", rich_help_panel=_LOAD),
]
Timeout: TypeAlias = Annotated[
    float,
    typer.Option(
        callback=finite, metavar="SECONDS", help="Seconds after which a request has failed.", rich_help_panel=_LOAD
    ),
]
Processes: TypeAlias = Annotated[
    int, typer.Option(min=1, metavar="N", help="Load-generator processes.", rich_help_panel=_LOAD)
]
Repeat: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Repetitions per load; with --compare: pairs. Default: 1; 5 pairs.",
        rich_help_panel=_LOAD,
    ),
]
Objective: TypeAlias = Annotated[
    str,
    typer.Option(
        "--slo",
        metavar="pNN=TIME",
        help="Search for the highest rate that holds it, as p99=15ms.",
        rich_help_panel=_STUDY,
    ),
]
Compare: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--compare", metavar="", help="Interleave the models; print ratios to the first.", rich_help_panel=_STUDY
    ),
]
Baseline: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="An earlier result (-o) to compare with.", rich_help_panel=_STUDY)
]
FailAbove: TypeAlias = Annotated[
    str,
    typer.Option(
        "--fail-above",
        metavar="PERCENT",
        help="With --baseline: exit 3 on a larger regression.",
        rich_help_panel=_STUDY,
    ),
]
Scenario: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="MLPerf's LoadGen: single-stream, multi-stream, server (with --rate and --slo p99=...) or offline.",
        rich_help_panel=_STUDY,
    ),
]
LoadgenLogs: TypeAlias = Annotated[
    Path, typer.Option("--loadgen-logs", metavar="DIR", help="Where LoadGen writes its logs.", rich_help_panel=_STUDY)
]
SentData: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE",
        help="Send the images of a folder, or the rows of a .npy array. Default: noise.",
        rich_help_panel=_INPUT,
    ),
]
Shape: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME:D1,D2",
        help="Shape of an input that the model leaves open, without the batch. Repeatable.",
        rich_help_panel=_INPUT,
    ),
]
Check: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--check/--no-check",
        metavar="",
        help="Check a sample of the answers. Default: where possible.",
        rich_help_panel=_INPUT,
    ),
]
InProcess: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--in-process",
        metavar="",
        help="Also run the version's file without the server: serving efficiency.",
        rich_help_panel=_INPUT,
    ),
]
SharedMemory: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--shared-memory", metavar="", help="Let the server read inputs from shared memory.", rich_help_panel=_INPUT
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOptions:
    """What is searched for, or compared, rather than measured load by load."""

    slo: Objective = ""
    compare: Compare = False
    baseline: Baseline = None
    fail_above: FailAbove = "5%"
    scenario: Scenario = ""
    loadgen_logs: LoadgenLogs = Path("loadgen")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """What is sent, and for how long."""

    concurrency: Concurrency = ""
    rate: Rate = ""
    arrivals: Arrivals = "poisson"
    batch_size: BatchSize = 1
    duration: Duration = None
    warmup: Warmup = 2.0
    timeout: Timeout = 60.0
    repeat: Repeat = None
    processes: Processes = 1

    def plans(self, *, compare: bool, seed: int) -> list[LoadPlan]:
        """Return a plan for each load; with `compare` there is one.

        Raises:
            UsageError: a value is out of range, or there are several to compare at.
        """
        from resx.bench.load.load_plan import ARRIVALS, LoadPlan, concurrencies, rates

        base = LoadPlan(
            concurrency=1,
            arrivals=choose("--arrivals", self.arrivals, ARRIVALS),
            batch_size=self.batch_size,
            duration_s=self.duration if self.duration is not None else (3.0 if compare else 10.0),
            warmup_s=self.warmup,
            timeout_s=self.timeout,
            seed=seed,
        )
        closed = self.concurrency or ("" if self.rate else "8" if compare else "1,4,8")
        counts, rates_per_s = concurrencies(closed) if closed else [], rates(self.rate) if self.rate else []
        plans = [replace(base, concurrency=count, processes=self.processes) for count in counts]
        plans += [replace(base, concurrency=0, rate_per_s=value, processes=self.processes) for value in rates_per_s]
        if compare and len(plans) != 1:
            raise UsageError("--compare: takes one load; give one --concurrency or one --rate")
        return plans


@dataclass(frozen=True, kw_only=True, slots=True)
class InputOptions:
    """What the requests hold, and how answers are checked."""

    data: SentData = None
    shape: Shape = None
    check: Check = None
    in_process: InProcess = False
    shared_memory: SharedMemory = False
