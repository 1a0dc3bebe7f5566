"""Measure one setting of a model on the server that is to serve it, a lone request and many at a time.

Under a service level objective a setting's throughput is the highest rate of random arrivals at which it holds. Without
one it is the slope of the answers over time in a closed loop: their number over the window's length would be off by a
batch at each end, which is a quarter of what a slow model answers in a second. Slow models are loaded longer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import canaries
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras, measure
from resx.bench.results.result import Measurement, is_local
from resx.bench.results.samples import Samples
from resx.bench.tuning.highest_rate import Slo, search
from resx.card.tuning import Objective, Setting, Trial
from resx.errors import ResxError
from resx.repository.versions import Repository
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.deployment.served_model import canary
from resx.serving.deployment.tuned_configuration import Candidate, key_of, on_trial

_WARMUP_S = 0.5
_CLOSENESS = 1.06
"""Of a trial's search for a rate."""
_LEAST_ROUNDS = 12
"""Answers of each request in flight, in a load of the first round."""
Stage: TypeAlias = Literal["threads", "batching"]


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
