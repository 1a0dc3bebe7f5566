"""What a form must hold to be picked, as `latency<5ms`, `size<=2MB`, `accuracy>97%` or `throughput>1000`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from resx.bench.exports.comparison import Form, best_of, latency_ms
from resx.errors import ObjectiveMissed, UsageError

_CONDITION = re.compile(r"([a-z]+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z%/]*)")
EXAMPLES = "latency<5ms, size<2MB, accuracy>97% or throughput>1000"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figure:
    """A figure that can be bounded."""

    read: Callable[[Form], float]
    """Of a measured form, in the first unit."""
    units: Mapping[str, float]
    """By name, how many of the first unit; the empty name stands for no unit."""
    is_cost: bool
    """Whether less is better, so that it has an upper bound."""
    decimals: str


def _accuracy(form: Form) -> float:
    return 100 * form.accuracy.share if form.accuracy else 0.0


def _throughput(form: Form) -> float:
    return form.speed.images_per_s.median if form.speed else 0.0


_FIGURES: Final[Mapping[str, _Figure]] = {
    "latency": _Figure(read=latency_ms, units={"ms": 1.0, "": 1.0, "us": 1e-3, "s": 1e3}, is_cost=True, decimals=".3g"),
    "size": _Figure(
        read=lambda form: (form.size_bytes or 0) / 1e6,
        units={"mb": 1.0, "": 1.0, "kb": 1e-3, "gb": 1e3},
        is_cost=True,
        decimals=".3g",
    ),
    "accuracy": _Figure(read=_accuracy, units={"%": 1.0, "": 100.0}, is_cost=False, decimals=".2f"),
    "throughput": _Figure(
        read=_throughput, units={"images/s": 1.0, "": 1.0, "/s": 1.0}, is_cost=False, decimals=",.0f"
    ),
}
_SHOWN: Final[Mapping[str, str]] = {"latency": "ms", "size": "MB", "accuracy": "%", "throughput": "images/s"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A bound on one figure."""

    figure: str
    sign: str
    bound: float
    """In ms, MB, percent or images per second."""

    def holds(self, form: Form) -> bool:
        """Say whether a measured form meets it."""
        value = _FIGURES[self.figure].read(form)
        compared = {"<": value < self.bound, "<=": value <= self.bound, ">": value > self.bound}
        return compared.get(self.sign, value >= self.bound)

    def nearest(self, forms: Sequence[Form]) -> str:
        """Return which of the forms comes nearest, in words."""
        figure = _FIGURES[self.figure]
        best = min(forms, key=lambda form: figure.read(form) if figure.is_cost else -figure.read(form))
        extreme = "lowest" if figure.is_cost else "highest"
        value = format(figure.read(best), figure.decimals)
        return f"the {extreme} {self.figure} is {value} {_SHOWN[self.figure]}, of {best.name}"


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Return the conditions of a text that has commas between them.

    Raises:
        UsageError: one is malformed, or bounds a figure on the wrong side.
    """
    return tuple(_parse(part.strip()) for part in text.split(","))


def _parse(text: str) -> Condition:
    found = _CONDITION.fullmatch(text.lower().replace("µ", "u"))
    figure = _FIGURES.get(found[1]) if found else None
    if found is None or figure is None:
        raise UsageError(f"--pick '{text}': not a condition; use {EXAMPLES}")
    name, sign, number, unit = found.groups()
    if unit not in figure.units:
        known = ", ".join(filter(None, figure.units))
        raise UsageError(f"--pick '{text}': {name} has no unit '{unit}'; use one of {known}")
    if figure.is_cost != sign.startswith("<"):
        side = "an upper bound: use <" if figure.is_cost else "a lower bound: use >"
        raise UsageError(f"--pick '{text}': {name} takes {side}")
    bound = float(number) * figure.units[unit]
    if name == "accuracy" and bound > 100:
        raise UsageError(f"--pick '{text}': accuracy is a share; use 0.97 or 97%")
    if figure.is_cost and bound <= 0:
        raise UsageError(f"--pick '{text}': no form has {name} {number}; use a bound above 0")
    return Condition(figure=name, sign=sign, bound=bound)


def pick(forms: Sequence[Form], conditions: Sequence[Condition], text: str) -> Form:
    """Return the best form that meets every condition: the most accurate, and of ties the fastest.

    Raises:
        ObjectiveMissed: none does; the message says which comes nearest.
    """
    measured = [form for form in forms if not form.failed]
    found = best_of([form for form in measured if all(condition.holds(form) for condition in conditions)])
    if found is not None:
        return found
    missed = [condition for condition in conditions if not any(condition.holds(form) for form in measured)]
    if not measured:
        raise ObjectiveMissed(f"--pick '{text}': no form was exported and measured")
    why = missed[0].nearest(measured) if missed else "each condition is met by a form, but no form meets them all"
    raise ObjectiveMissed(f"--pick '{text}': no form meets it; {why}; nothing was published")
