"""Find the configuration under which a model is served best, by measurement on the server that is to serve it.

Two stages, each by successive halving (`ranking.py`): which file with how many instances of how many threads, then how
large batches may get and how long a request may wait for one (`setting_space.py`). All settings of a stage are measured
briefly, in turns (`trials.py`); a third goes on, with twice the time. The setting that was in force is never dropped.
At the end it and the best one are measured in pairs, and only a difference that the pairs are sure of counts.

No setting has more threads than cores, and, unless throughput alone is asked for, none is chosen under which a lone
request takes more than MOST_SLOWER times the quickest setting's: two instances of one thread each answer most images,
and one image in twice the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from resx.bench.comparing import interval
from resx.bench.tuning.ranking import halve, shortest_ms, worth
from resx.bench.tuning.setting_space import batch_settings, delays_us, thread_settings
from resx.bench.tuning.trials import Bench, Stage
from resx.card.tuning import Objective, Setting, Trial

_CAUTION = 0.85
"""Of the highest rate that has held so far, where the next setting's search begins."""


_FINAL = "best against current"
"""The last stage, which has one round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningResult:
    """What was found."""

    before: Setting
    best: Setting
    ratio: float | None
    """Best to before: images per second, or the median at concurrency 1. None: `before` held the objective at no
    rate, and the best did in every pair."""
    low: float | None
    high: float | None
    num_pairs: int
    trials: tuple[Trial, ...]
    threads_matter: bool

    def is_better(self, objective: Objective) -> bool:
        """Say whether the pairs are sure of it."""
        if self.best == self.before:
            return False
        if self.low is None or self.high is None:
            return True
        return self.high < 1 if objective == "latency" else self.low > 1


def tune(
    bench: Bench,
    largest: int,
    least: int,
    *,
    on_trial: Callable[[str, Setting], None],
    on_done: Callable[[Trial], None] = lambda _trial: None,
) -> TuningResult:
    """Search.

    Args:
        bench: measures.
        largest: batch that the files take.
        least: images that a request must be able to hold: those of the canary.
        on_trial: told of each trial: which one it is, as `threads, round 1, 3 of 12`, and its setting.
        on_done: given each trial.

    Raises:
        ResxError: no setting could be measured.
        ObjectiveMissed: the objective holds under none.
    """
    asked, before, trials = bench.search, bench.before, list[Trial]()
    on_cpu = bench.threads_matter()

    counted = _Counted()

    def run(stage: Stage) -> Callable[[Setting, float], Trial]:
        def one(setting: Setting, seconds: float) -> Trial:
            on_trial(counted.next(), setting)
            held = max((trial.images_per_s for trial in trials), default=0.0)
            start = _CAUTION * held / bench.images_per_request(setting) if held else None
            trials.append(bench.trial(setting, stage, seconds, on_cpu, start))
            on_done(trials[-1])
            return trials[-1]

        return one

    options = (asked.objective, asked.duration_s, asked.seed)
    files = [candidate.key for candidate in bench.candidates]
    settings = thread_settings(before, files, asked.cores, on_cpu=on_cpu)
    best = halve(settings, before, run("threads"), *options, on_round=partial(counted.begin, "threads"))
    alone_ms = next((trial.single_ms for trial in reversed(trials) if trial.setting == best), None)
    batching = batch_settings(before, best, largest, least, delays_us(alone_ms))
    quickest_ms = shortest_ms(trials)
    on_round = partial(counted.begin, "batching")
    best = halve(batching, before, run("batching"), *options, quickest_ms=quickest_ms, on_round=on_round)
    if best == before:
        pairs: list[tuple[float, float]] = []
    else:
        counted.begin(_FINAL, 2 * asked.num_pairs)
        pairs = list(_pairs(bench, before, best, run("batching")))
    return outcome(before, best, pairs, tuple(trials), on_cpu)


@dataclass(kw_only=True, slots=True)
class _Counted:
    """Which trial of which round it is."""

    stage: str = ""
    round: int = 0
    number: int = 0
    total: int = 0

    def begin(self, stage: str, total: int) -> None:
        """Begin a stage's next round, of so many trials."""
        self.round = self.round + 1 if stage == self.stage else 1
        self.stage, self.number, self.total = stage, 0, total

    def next(self) -> str:
        """Count one, and return its place."""
        self.number += 1
        of_round = "" if self.stage == _FINAL else f", round {self.round}"
        return f"{self.stage}{of_round}, {self.number} of {self.total}"


def _pairs(
    bench: Bench, before: Setting, best: Setting, run: Callable[[Setting, float], Trial]
) -> Iterator[tuple[float, float]]:
    """Measure both in turns; give the valid pairs' scores, as positive numbers."""
    for number in range(bench.search.num_pairs):
        order = (before, best) if number % 2 else (best, before)
        pair = {setting: run(setting, 2 * bench.search.duration_s) for setting in order}
        if not any(trial.invalid for trial in pair.values()):
            quickest_ms = min(trial.single_ms or math.inf for trial in pair.values())
            here, there = (worth(pair[setting], quickest_ms, bench.search.objective) for setting in (before, best))
            yield here, there


def outcome(
    before: Setting, best: Setting, pairs: Sequence[tuple[float, float]], trials: tuple[Trial, ...], on_cpu: bool
) -> TuningResult:
    """Compare by pairs of scores, (before's, best's), of which 0 says that a setting did not meet the objective.

    A best setting that once did not is sure of nothing.
    """
    logs = [math.log(there / here) for here, there in pairs if here and there]
    ratio: float | None
    low: float | None
    high: float | None
    if any(not there for _, there in pairs):
        ratio = low = high = 1.0
    elif len(logs) > 1:
        mean = interval(logs)
        ratio, low, high = (math.exp(mean.mean + side * mean.half_width) for side in (0, -1, 1))
    elif len(pairs) > 1 and all(there and not here for here, there in pairs):
        ratio = low = high = None
    else:
        ratio = low = high = 1.0
    return TuningResult(
        before=before,
        best=best,
        num_pairs=len(pairs),
        trials=trials,
        threads_matter=on_cpu,
        ratio=ratio,
        low=low,
        high=high,
    )
