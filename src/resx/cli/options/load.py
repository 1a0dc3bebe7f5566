"""What a benchmark sends, and what is searched for or compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import choose, finite
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.bench.load.load_plan import LoadPlan

_load_option = partial(typer.Option, rich_help_panel="Load")
_study_option = partial(typer.Option, rich_help_panel="Search and comparison")
_input_option = partial(typer.Option, rich_help_panel="Input and checks")

Concurrency: TypeAlias = Annotated[
    str,
    _load_option(
        metavar="N,...",
        help="Closed loop, in-flight requests: a number, a list, 1:16 (1, 2, 4, 8, 16), or START:END:STEP.",
    ),
]
Rate: TypeAlias = Annotated[
    str, _load_option(metavar="N,...", help="Open loop, requests per second: a number, a list, or START:END:STEP.")
]
Arrivals: TypeAlias = Annotated[str, _load_option(metavar="[poisson|constant]", help="Open-loop arrivals.")]
BatchSize: TypeAlias = Annotated[
    int, _load_option("--batch-size", "-b", min=1, metavar="N", help="Images per request.")
]
Duration: TypeAlias = Annotated[
    float | None,
    _load_option(
        callback=finite, metavar="SECONDS", help="Seconds to measure, per load. Default: 10; 3 with --compare."
    ),
]
Warmup: TypeAlias = Annotated[
    float, _load_option(callback=finite, metavar="SECONDS", help="Warm-up in seconds, not counted.")
]
Timeout: TypeAlias = Annotated[
    float, _load_option(callback=finite, metavar="SECONDS", help="Seconds after which a request has failed.")
]
Processes: TypeAlias = Annotated[int, _load_option(min=1, metavar="N", help="Load-generator processes.")]
Repeat: TypeAlias = Annotated[
    int | None,
    _load_option(min=1, metavar="N", help="Repetitions per load; with --compare: pairs. Default: 1; 5 pairs."),
]
Objective: TypeAlias = Annotated[
    str, _study_option("--slo", metavar="pNN=TIME", help="Search for the highest rate that meets it, such as p99=15ms.")
]
Compare: TypeAlias = Annotated[
    bool, _study_option("--compare", metavar="", help="Interleave the models and print ratios to the first.")
]
Baseline: TypeAlias = Annotated[
    Path | None, _study_option(metavar="FILE", help="An earlier result (-o) to compare with.")
]
FailAbove: TypeAlias = Annotated[
    str, _study_option("--fail-above", metavar="PERCENT", help="With --baseline: exit 3 on a larger regression.")
]
Scenario: TypeAlias = Annotated[
    str,
    _study_option(
        metavar="[single-stream|multi-stream|server|offline]",
        help="Run MLPerf's LoadGen; server needs --rate and --slo p99=...",
    ),
]
LoadgenLogs: TypeAlias = Annotated[
    Path, _study_option("--loadgen-logs", metavar="DIR", help="Where LoadGen writes its logs.")
]
SentData: TypeAlias = Annotated[
    Path | None,
    _input_option(metavar="DIR|FILE", help="Send the images of a folder, or the rows of a .npy array. Default: noise."),
]
Shape: TypeAlias = Annotated[
    list[str] | None,
    _input_option(
        "--shape",
        metavar="NAME:D1,D2",
        help="Shape of a dynamic input, without the batch axis. Repeatable.",
    ),
]
Check: TypeAlias = Annotated[
    bool | None,
    _input_option("--check/--no-check", metavar="", help="Check a sample of the answers. Default: where possible."),
]
InProcess: TypeAlias = Annotated[
    bool,
    _input_option(
        "--in-process", metavar="", help="Also run the file without the server and report the serving efficiency."
    ),
]
SharedMemory: TypeAlias = Annotated[
    bool, _input_option("--shared-memory", metavar="", help="Let the server read inputs from shared memory.")
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
