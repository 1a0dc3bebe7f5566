"""Which of the measured settings goes on, and which no other beats.

Successive halving: Jamieson and Talwalkar, AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from resx.card.tuning import MOST_SLOWER, Objective, Setting, Trial
from resx.errors import ObjectiveMissed, ResxError
from resx.pareto import pareto_front

_KEPT = 3


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
