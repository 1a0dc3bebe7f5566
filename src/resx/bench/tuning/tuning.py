"""Find the configuration under which a model is served best, by measurement on the server that is to serve it.

Two stages, each by successive halving (Jamieson and Talwalkar, AISTATS 2016): which file with how many instances of
how many threads, then how large batches may get and how long a request may wait for one. All settings of a stage are
measured briefly, in turns; a third goes on, with twice the time. The setting that was in force is never dropped. In
the end the best one and that are measured in pairs, and only a difference that the pairs are sure of counts.

Under a service level objective a setting's throughput is the highest rate of random arrivals at which it holds. Without
one it is the slope of the answers over time in a closed loop: their number over the window's length would be off by a
batch at each end, which is a quarter of what a slow model answers in a second. Slow models are loaded longer.

No setting has more threads than cores, and, unless throughput alone is asked for, none is chosen under which a lone
request takes more than MOST_SLOWER times the quickest setting's: two instances of one thread each answer most images,
and one image in twice the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from resx.bench.comparing import interval
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import canaries
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras, measure
from resx.bench.results.result import Measurement, is_local
from resx.bench.results.samples import Samples
from resx.bench.tuning.highest_rate import Slo, search
from resx.card.tuning import MOST_SLOWER, Objective, Setting, Trial
from resx.errors import ObjectiveMissed, ResxError
from resx.pareto import pareto_front
from resx.repository.versions import Repository
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.deployment.served_model import canary
from resx.serving.deployment.tuned_configuration import Candidate, FileKey, key_of, on_trial
from resx.serving.embedded.backends.config_values import SPIN_US

DELAYS_US = (0, 200, 1000)
_DELAY_SHARE = 0.2
"""Of a single request's time: the longest delay that is tried, where that is more than the others."""
SPINS_US = (0, SPIN_US, 3 * SPIN_US)
"""How long threads that run out of work may wait busily. Without a bound they take cores from whatever else runs."""
_KEPT = 3
_WARMUP_S = 0.5
_CLOSENESS = 1.06
"""Of a trial's search for a rate."""
_LEAST_ROUNDS = 12
"""Answers of each request in flight, in a load of the first round."""
_CAUTION = 0.85
"""Of the highest rate that has held so far, where the next setting's search begins."""
Stage = Literal["threads", "batching"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What is to be found."""

    objective: Objective
    concurrency: int
    cores: int
    """That the server may use."""
    client_elsewhere: bool
    """Throughput is to be estimated without the processor time of the client, which here takes it from the server."""
    duration_s: float
    """Of each load of the first round."""
    num_pairs: int
    seed: int
    slo: Slo | None = None
    """What has to hold where throughput counts."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Measures settings of one model on one server."""

    client: TritonClient
    address: Address
    """Over which the loads go."""
    repository: Repository
    name: str
    before: Setting
    search: Search
    candidates: tuple[Candidate, ...]
    """Whose files may be served, that of `before` among them."""

    def candidate(self, setting: Setting) -> Candidate:
        """Return whose file a setting serves."""
        return next(one for one in self.candidates if one.key == key_of(setting))

    def threads_matter(self) -> bool:
        """Say whether the server computes the model on its processor."""
        with on_trial(self.client, self.repository, self.candidate(self.before), None, threads=False) as alias:
            groups = self.client.config(alias).get("instance_group", [])
        return not any(group.get("kind") == "KIND_GPU" for group in groups)

    def images_per_request(self, setting: Setting) -> int:
        """Return how many images the requests of a trial hold."""
        return self.candidate(setting).card.signature.batch or 1

    def trial(
        self, setting: Setting, stage: Stage, seconds: float, threads: bool, start_per_s: float | None = None
    ) -> Trial:
        """Load a setting, check its answer, measure it under both loads, and unload it."""
        candidate = self.candidate(setting)
        card, loaded = candidate.card, None if setting == self.before else setting
        slopes: list[float] = []
        extras = Extras(
            payloads=lambda _target, batch: canaries(card, batch),
            measure_ceiling=False,
            on_samples=lambda load, samples, _opened: slopes.append(answers_per_s(samples) or load.requests_per_s),
        )
        plan = LoadPlan(
            concurrency=self.search.concurrency,
            duration_s=seconds,
            warmup_s=min(_WARMUP_S, seconds),
            seed=self.search.seed,
            batch_size=self.images_per_request(setting),
        )
        try:
            with on_trial(self.client, self.repository, candidate, loaded, threads=threads) as alias:
                canary(self.client, alias, candidate.version, card)
                target = Target(
                    address=self.address,
                    model=alias,
                    version=candidate.version,
                    answering=candidate.version,
                    interface=self.client.interface(alias, candidate.version),
                )
                one = measure(target, replace(plan, concurrency=1), extras)
                many = self._many(target, plan, extras, one, start_per_s)
        except ResxError as error:
            return _failed(setting, stage, seconds, str(error))
        loads = [one] if many is None else [many, one]
        if any(load.interrupted for load in loads):
            raise KeyboardInterrupt
        reasons = [reason for load in loads for reason in load.invalid]
        reasons += [f"{load.failed} requests failed" for load in loads if load.failed]
        use = loads[0].server_use
        return Trial(
            setting=setting,
            stage=stage,
            seconds=seconds,
            cpu_ms_per_request=use.cpu_ms_per_request if use else None,
            memory_bytes=use.memory_bytes if use else None,
            server_use_missing=loads[0].server_use_missing,
            images_per_s=self._images_per_s(many, slopes[-1]),
            p50_ms=many.p50_ms if many else None,
            p99_ms=many.p99_ms if many else None,
            single_ms=one.p50_ms,
            invalid=reasons[0] if reasons else "",
        )

    def _many(
        self, target: Target, plan: LoadPlan, extras: Extras, alone: Measurement, start_per_s: float | None
    ) -> Measurement | None:
        """Measure the load whose throughput counts; None where the objective holds at no rate."""
        slo = self.search.slo
        if slo is None:
            return measure(target, replace(plan, duration_s=self._stretched_s(plan, alone)), extras)
        if alone.p50_ms is not None and alone.p50_ms > slo.bound_ms:
            return None
        found = search(target, slo, plan, extras, start_per_s=start_per_s, closeness=_CLOSENESS)
        if found.trials and found.trials[-1].interrupted:
            raise KeyboardInterrupt
        # Without a rate, the last trial tells whether the server was too slow, or nothing could be measured.
        return found.trials[-1] if found.rate_per_s or (found.trials and found.trials[-1].invalid) else None

    def _stretched_s(self, plan: LoadPlan, alone: Measurement) -> float:
        """Return how long a closed loop is to be, by how long a single request takes."""
        single_s = (alone.p50_ms or alone.max_ms or 0.0) / 1e3
        least_s = _LEAST_ROUNDS * plan.concurrency * single_s
        return plan.duration_s * max(1.0, least_s / self.search.duration_s)

    def _images_per_s(self, many: Measurement | None, answers_per_s: float) -> float:
        if many is None:
            return 0.0
        if self.search.slo is not None:
            return many.rate_per_s * many.batch_size
        found = answers_per_s * many.batch_size
        if self.search.client_elsewhere and is_local(self.address):
            return found / max(0.1, 1 - many.client.cpu_share / self.search.cores)
        return found


def answers_per_s(samples: Samples) -> float | None:
    """Return the slope of the number of answers over time (least squares); None for fewer than two moments."""
    done_s = np.sort(samples.answered.done_ns - samples.done_ns.min(initial=0)) / 1e9
    spread_s = done_s - done_s.mean() if len(done_s) else done_s
    if not spread_s.any():
        return None
    return float(spread_s @ np.arange(len(done_s)) / (spread_s @ spread_s))


def thread_settings(before: Setting, files: Iterable[FileKey], cores: int, *, on_cpu: bool) -> list[Setting]:
    """Return instances and threads that fit on the cores, with and without spinning, for each file.

    OpenVINO's threads have no such setting.
    """
    shapes: list[tuple[int, int, int]] = []
    if on_cpu:
        instances = 1
        while instances <= cores:
            for threads in sorted({cores // instances, max(1, cores // instances // 2)}, reverse=True):
                shapes += [(instances, threads, spin_us) for spin_us in (SPINS_US if threads > 1 else (0,))]
            instances *= 2
    else:
        shapes = [(instances, 0, 0) for instances in (1, 2, 3, 4)]
    found = [
        before.model_copy(
            update={
                "version": version,
                "runtime": runtime,
                "precision": precision,
                "instances": count,
                "threads": threads,
                "spinning": spin_us > 0,
                "spin_us": spin_us,
            }
        )
        for version, runtime, precision in files
        for count, threads, spin_us in shapes
        if runtime != "openvino" or not spin_us
    ]
    return list(dict.fromkeys([before, *found]))


def delays_us(single_ms: float | None) -> tuple[int, ...]:
    """Return the delays to try for a model whose request takes so long alone.

    Answers come in batches, and so do the requests that follow them, over a time that grows with the model's. Two
    instances of resnet50 that may join 4 of 8 requests ran batches of 2.5 to 2.7 images with a delay of 0 or 1 ms, and
    of 3.9 to 4.0 with 8 ms (mean batch of `resx bench --concurrency 8`).
    """
    longest = round(_DELAY_SHARE * (single_ms or 0.0)) * 1000
    return DELAYS_US if longest <= DELAYS_US[-1] else (DELAYS_US[0], DELAYS_US[-1], longest)


def batch_settings(
    before: Setting, best: Setting, largest: int, least: int, delays: Sequence[int] = DELAYS_US
) -> list[Setting]:
    """Return the best setting with other batches and delays; batches of `least` images must remain possible.

    The least of all is among them: where a batch costs what its images cost one by one, as small networks do on a
    processor, joining requests gives no throughput, and the tail of all that are joined.
    """
    if not best.max_batch:
        return list(dict.fromkeys([before, best]))
    sizes = sorted({size for size in (largest, largest // 2, largest // 4) if size >= max(1, least)}, reverse=True)
    joined = [(size, delay) for size in sizes for delay in delays] + [(max(1, least), 0)]
    found = [best.model_copy(update={"max_batch": size, "delay_us": delay}) for size, delay in joined]
    return list(dict.fromkeys([before, best, *found]))


def halve(
    settings: Sequence[Setting],
    before: Setting,
    run: Callable[[Setting, float], Trial],
    objective: Objective,
    duration_s: float,
    seed: int,
    quickest_ms: float = math.inf,
    on_round: Callable[[int], None] = lambda _num_settings: None,
) -> Setting:
    """Return the best of the settings: in each round a third stays, and `before`, with twice the time.

    `quickest_ms`: the shortest lone request of the settings that were measured before. `on_round` is told how many
    settings a round measures.

    Raises:
        ResxError: not one could be measured; the first one's reason.
        ObjectiveMissed: not one holds the service level objective.
    """
    left, order = list(settings), np.random.default_rng(seed)
    while True:
        on_round(len(left))
        trials = [run(left[index], duration_s) for index in order.permutation(len(left))]
        good = [trial for trial in trials if not trial.invalid]
        quickest_ms = min([quickest_ms, *(trial.single_ms or math.inf for trial in good)])
        good.sort(key=lambda trial: (is_too_slow(trial, quickest_ms, objective), -score(trial, objective)))
        if not good:
            raise ResxError(f"no setting could be measured: {trials[0].invalid}")
        if not score(good[0], objective):
            raise ObjectiveMissed(
                f"no setting meets the objective at any rate; the fastest request took {quickest_ms:.3g} ms"
            )
        if len(left) <= _KEPT:
            return good[0].setting
        kept = [trial.setting for trial in good[: max(2, math.ceil(len(left) / _KEPT))]]
        left = list(dict.fromkeys([before, *kept]))
        duration_s *= 2


def score(trial: Trial, objective: Objective) -> float:
    """Return what is to be as large as possible."""
    return -(trial.single_ms or math.inf) if objective == "latency" else trial.images_per_s


def is_too_slow(trial: Trial, quickest_ms: float, objective: Objective) -> bool:
    """Say whether a setting may not be chosen, as it slows a lone request down."""
    return objective == "balanced" and (trial.single_ms or math.inf) > MOST_SLOWER * quickest_ms


def worth(trial: Trial, quickest_ms: float, objective: Objective) -> float:
    """Return a setting's figure in a pair: as `score`, without a sign, and 0 where it does not meet the objective."""
    return 0.0 if is_too_slow(trial, quickest_ms, objective) else abs(score(trial, objective))


def shortest_ms(trials: Sequence[Trial]) -> float:
    """Return the shortest lone request that a setting's last valid trial showed."""
    return min((trial.single_ms or math.inf for trial in latest(trials) if not trial.invalid), default=math.inf)


def latest(trials: Sequence[Trial]) -> list[Trial]:
    """Return each setting's last trial, which is among its longest."""
    return list({trial.setting: trial for trial in trials}.values())


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the settings' last valid trials that no other beats in both throughput and single latency."""
    found = latest([trial for trial in trials if not trial.invalid and trial.single_ms])
    return pareto_front(found, lambda trial: (-trial.images_per_s, trial.single_ms or 0))


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
        on_trial: told of each trial: which of its round, as `threads, setting 3 of 12`, and its setting.
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
            on_trial(f"{stage}, {counted.next()}", setting)
            held = max((trial.images_per_s for trial in trials), default=0.0)
            start = _CAUTION * held / bench.images_per_request(setting) if held else None
            trials.append(bench.trial(setting, stage, seconds, on_cpu, start))
            on_done(trials[-1])
            return trials[-1]

        return one

    options = (asked.objective, asked.duration_s, asked.seed)
    files = [candidate.key for candidate in bench.candidates]
    settings = thread_settings(before, files, asked.cores, on_cpu=on_cpu)
    best = halve(settings, before, run("threads"), *options, on_round=counted.begin)
    alone_ms = next((trial.single_ms for trial in reversed(trials) if trial.setting == best), None)
    batching = batch_settings(before, best, largest, least, delays_us(alone_ms))
    quickest_ms = shortest_ms(trials)
    best = halve(batching, before, run("batching"), *options, quickest_ms=quickest_ms, on_round=counted.begin)
    if best == before:
        pairs: list[tuple[float, float]] = []
    else:
        counted.begin(2 * asked.num_pairs, "pairs of best and current, run")
        pairs = list(_pairs(bench, before, best, run("batching")))
    return outcome(before, best, pairs, tuple(trials), on_cpu)


@dataclass(kw_only=True, slots=True)
class _Counted:
    """Which trial of a round it is."""

    what: str = ""
    number: int = 0
    total: int = 0

    def begin(self, total: int, what: str = "setting") -> None:
        """Begin a round of so many trials."""
        self.what, self.number, self.total = what, 0, total

    def next(self) -> str:
        """Count one, and return its place."""
        self.number += 1
        return f"{self.what} {self.number} of {self.total}"


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


def _failed(setting: Setting, stage: Stage, seconds: float, reason: str) -> Trial:
    return Trial(
        setting=setting,
        stage=stage,
        seconds=seconds,
        images_per_s=0.0,
        p50_ms=None,
        p99_ms=None,
        single_ms=None,
        invalid=reason,
    )
