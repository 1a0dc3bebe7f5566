"""Compare targets by interleaved pairs, and a result with an earlier one.

On a shared machine absolute times drift by far more than what one wants to see. Two targets that are measured one
right after the other see the same machine, so each pair gives a ratio; what is told is the pairs' geometric mean and
its 95 % confidence interval (Student's t of the logarithms). The order within a pair alternates.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.wire import Target
from resx.bench.measuring import Extras, measure
from resx.bench.results.result import BenchResult, Interval, Measurement, Ratio, Repeated
from resx.errors import UsageError

What: TypeAlias = Literal["images_per_s", "p50_ms", "p99_ms"]
WHATS: tuple[What, ...] = ("images_per_s", "p50_ms", "p99_ms")
# 97.5 % quantiles of Student's t by degrees of freedom; between two of them the smaller number of degrees holds.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 12: 2.179,
      15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980}  # fmt: skip


def interval(values: Sequence[float]) -> Interval:
    """Return the mean and the half width of its 95 % confidence interval; inf of a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean=mean, half_width=float("inf"))
    degrees = max(known for known in _T if known <= len(values) - 1)
    return Interval(mean=mean, half_width=_T[degrees] * statistics.stdev(values) / math.sqrt(len(values)))


def summarize_repeats(measurements: Sequence[Measurement]) -> tuple[Repeated, ...]:
    """Return each load that was measured several times, with intervals."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measured in measurements:
        groups.setdefault((measured.target, measured.title), []).append(measured)

    def of(group: Sequence[Measurement], what: What) -> Interval | None:
        values = [getattr(measured, what) for measured in group]
        return None if None in values else interval(values)

    return tuple(
        Repeated(
            title=title,
            target=target,
            num_runs=len(group),
            images_per_s=interval([measured.images_per_s for measured in group]),
            p50_ms=of(group, "p50_ms"),
            p99_ms=of(group, "p99_ms"),
        )
        for (target, title), group in groups.items()
        if len(group) > 1
    )


def tell_apart(targets: Sequence[Target]) -> list[Target]:
    """Return the targets with labels, where their names alone do not say which is which.

    The same model on two servers gets the servers' addresses; the same on one server, as in a check of the noise,
    gets a number: `resnet50 (1)`, `resnet50 (2)`.
    """
    names = [target.name for target in targets]
    if len(set(names)) == len(names):
        return list(targets)
    if len({target.address for target in targets}) > 1:
        names = [f"{name}@{target.address.host_port}" for name, target in zip(names, targets, strict=True)]
    again, seen = Counter(names), Counter[str]()
    for position, name in enumerate(names):
        seen[name] += 1
        if again[name] > 1:
            names[position] = f"{name} ({seen[name]})"
    return [replace(target, label=name) for target, name in zip(targets, names, strict=True)]


def compare(
    targets: Sequence[Target],
    plan: LoadPlan,
    extras: Extras,
    num_pairs: int,
    *,
    on_round: Callable[[int, Target], None],
    on_measured: Callable[[Measurement], None],
) -> None:
    """Measure all targets in turn, `num_pairs` times; the order is turned round each time."""
    for number in range(1, num_pairs + 1):
        for target in targets if number % 2 else reversed(targets):
            on_round(number, target)
            measured = measure(target, plan, extras, repeat=number)
            on_measured(measured)
            if measured.interrupted:
                return


def ratios(names: Sequence[str], measurements: Sequence[Measurement]) -> tuple[Ratio, ...]:
    """Return what each target is to the first, from the rounds that all of them ended; names tell them apart."""

    def of(name: str) -> dict[int, Measurement]:
        return {
            measured.repeat: measured
            for measured in measurements
            if measured.target == name and not measured.interrupted
        }

    first, *others = names
    base, found = of(first), []
    for name in others:
        other = of(name)
        for what in WHATS:
            pairs = [(getattr(base[n], what), getattr(other[n], what)) for n in base if n in other]
            logs = [math.log(there / here) for here, there in pairs if here and there]
            if len(logs) < 2:
                continue
            mean = interval(logs)
            found.append(
                Ratio(
                    target=name,
                    base=first,
                    load=measurements[0].title,
                    what=what,
                    ratio=math.exp(mean.mean),
                    low=math.exp(mean.mean - mean.half_width),
                    high=math.exp(mean.mean + mean.half_width),
                    num_pairs=len(logs),
                )
            )
    return tuple(found)


def share_of(text: str) -> float:
    """Read `5%` or `0.05`.

    Raises:
        UsageError: it is neither, or not between 0 and 1.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 < share < 1:
        raise UsageError(f"--fail-above {text}: give a share such as 5%")
    return share


def regressions(result: BenchResult, baseline: BenchResult, share: float) -> list[str]:
    """Return what is worse than in `baseline` by more than `share`, a line each.

    Raises:
        UsageError: no load is in both.
    """
    before: dict[tuple[str, str, int], Measurement] = {}
    for measured in baseline.measurements:
        for called in (measured.target, measured.name):
            before.setdefault((called, measured.title, measured.batch_size), measured)
    found, compared = [], 0
    for measured in result.measurements:
        load = (measured.title, measured.batch_size)
        old = before.get((measured.target, *load)) or before.get((measured.name, *load))
        if old is None:
            continue
        compared += 1
        for what in WHATS:
            now, then = getattr(measured, what), getattr(old, what)
            if not now or not then:
                continue
            worse = then / now - 1 if what == "images_per_s" else now / then - 1
            if worse > share:
                unit = "images/s" if what == "images_per_s" else "ms " + what.removesuffix("_ms")
                found.append(f"{measured.target} at {measured.title}: {now:.4g} {unit}, was {then:.4g}")
    if not compared:
        raise UsageError(
            "--baseline: has no load in common with this measurement; use the same model and --concurrency or --rate"
        )
    return found
