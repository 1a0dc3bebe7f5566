"""Run a model with its counters off and on, and what the machine reaches at most, in turns.

In turns, so that what slows the machine for a while slows all of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from resx.card.runtime import PrecisionHint, RuntimeName
from resx.errors import UsageError
from resx.machine import usable_cores
from resx.runtimes.profiling import machine_peak
from resx.runtimes.profiling.counters import Counts, Feed, Probe
from resx.runtimes.profiling.machine_peak import StoredAs
from resx.runtimes.profiling.onnxruntime_counters import OnnxRuntimeProbe
from resx.runtimes.profiling.source_graph import SourceGraph

_WARM_UP = 3
_ROUNDS = 8
_GEMMS_A_ROUND = {512: 20, 1024: 5}
"""Many short ones: on a machine that others use too, some of them find it quiet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOptions:
    """The runtime, and what it is given."""

    runtime: RuntimeName = "onnxruntime"
    precision_hint: PrecisionHint = "f32"
    """What OpenVINO computes floating-point layers in."""
    threads: int = 0
    """0: every core that this process may use."""
    batch: int = 1
    num_runs: int = 40
    """With counters off, and as many with counters on."""
    image_size: int | None = None
    """Of an input that leaves it open."""

    def __post_init__(self) -> None:
        if self.threads < 0 or self.batch < 1 or self.num_runs < 1:
            raise UsageError(f"threads={self.threads}, batch={self.batch}, runs={self.num_runs}: give 1 or more")

    @property
    def num_threads(self) -> int:
        """How many threads a run has."""
        return self.threads or usable_cores()


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model that can be profiled."""

    name: str
    """What results and errors call it."""
    source: SourceGraph
    content: bytes | str
    """The model, or the path of OpenVINO's IR."""
    feed: Feed
    """What it is run on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What came of it."""

    runs_ms: tuple[float, ...]
    """With counters off."""
    counts: Counts
    gemms: tuple[tuple[int, Counts], ...] = ()
    """Matrix products, by the length of a side."""
    stream: Counts | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opener:
    """Opens models in the runtime that is asked for."""

    options: ProfileOptions
    folder: Path
    """For what the runtime writes."""

    def open(self, content: bytes | str, feed: Feed, where: str = "peak", *, counting: bool = True) -> Probe:
        threads, hint = self.options.num_threads, self.options.precision_hint
        if self.options.runtime == "onnxruntime":
            own = Path(tempfile.mkdtemp(dir=self.folder)) if counting else None
            return OnnxRuntimeProbe(content, feed, threads=threads, where=where, folder=own)
        from resx.runtimes.openvino_package import require_bf16
        from resx.runtimes.profiling.openvino_counters import OpenVinoProbe

        if hint == "bf16":
            require_bf16()
        return OpenVinoProbe(content, feed, threads=threads, where=where, hint=hint, counting=counting)


@dataclass(kw_only=True, slots=True)
class _Turn:
    """A model that is run so many times in each round."""

    probe: Probe
    times: int
    runs_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        for _ in range(self.times):
            started = time.perf_counter()
            self.probe.run()
            self.runs_ms.append(1000 * (time.perf_counter() - started))


def measure(
    subject: Subject,
    options: ProfileOptions,
    *,
    peaks: bool = True,
    on_round: Callable[[int, int], None] = lambda _done, _of: None,
) -> Measured:
    """Measure a model, and with `peaks` what the machine reaches.

    `on_round` is called with the rounds that are done and their number.

    Raises:
        ExportError: the runtime refuses the model or fails.
        MissingCapability: OpenVINO is missing, or the processor does not compute in what was asked for.
    """
    with tempfile.TemporaryDirectory(prefix="resx-profile-") as folder:
        return _in_turns(subject, _Opener(options=options, folder=Path(folder)), on_round, peaks=peaks)


def _in_turns(subject: Subject, opener: _Opener, on_round: Callable[[int, int], None], *, peaks: bool) -> Measured:
    num_runs = opener.options.num_runs
    rounds = min(_ROUNDS, num_runs)
    each = -(-num_runs // rounds)
    plain, counted = (
        _Turn(probe=opener.open(subject.content, subject.feed, subject.name, counting=counting), times=each)
        for counting in (False, True)
    )
    stored: tuple[StoredAs, ...] = ("fp32", "int8") if subject.source.has_integers else ("fp32",)
    products = [(one, size) for one in stored for size in machine_peak.GEMM_SIZES if peaks]
    gemms = [_Turn(probe=opener.open(*machine_peak.gemm(*one)), times=_GEMMS_A_ROUND[one[1]]) for one in products]
    streams = [_Turn(probe=opener.open(*machine_peak.stream()), times=1)] if peaks else []
    turns = [plain, counted, *gemms, *streams]
    for turn in turns:
        for _ in range(_WARM_UP):
            turn.probe.run()
    for number in range(rounds):
        first = number % len(turns)
        for turn in turns[first:] + turns[:first]:
            turn.run()
        on_round(number + 1, rounds)
    return Measured(
        runs_ms=tuple(plain.runs_ms),
        counts=counted.probe.finish(_WARM_UP),
        gemms=tuple((size, turn.probe.finish(_WARM_UP)) for (_, size), turn in zip(products, gemms, strict=True)),
        stream=streams[0].probe.finish(_WARM_UP) if streams else None,
    )
