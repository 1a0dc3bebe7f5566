"""A plan's latencies over the rate, with as many replicas as it names and with one fewer."""

from __future__ import annotations

from typing import Any

import numpy as np

from resx.bench.capacity.capacity_plan import CapacityPlan, Question, estimate
from resx.bench.capacity.simulation import Batching
from resx.figures import Figure, Look

_POINTS = 14


def capacity_figure(plan: CapacityPlan, batching: Batching, question: Question) -> Figure:
    """Return the figure, for which the plan's replicas are simulated at rates up to their capacity."""
    counts = [plan.replicas, plan.replicas - 1] if plan.replicas > 1 else [plan.replicas]
    holding = "1 replica meets" if plan.replicas == 1 else f"{plan.replicas} replicas meet"
    caption = (
        f"{plan.model}: {holding} {plan.slo} at {plan.rate_per_s:g} requests/s; simulated from measured service times, "
        f"{plan.arrivals} arrivals, {plan.balancing} balancing."
    )

    def draw(axes: Any, look: Look) -> None:
        for replicas, line in zip(counts, ("-", "--"), strict=False):
            rates = np.linspace(0.1, 0.98, _POINTS) * replicas * plan.capacity_per_s
            found = [estimate(plan.service, batching, question, replicas, float(rate)) for rate in rates]
            for field, colour in (("asked_ms", look.second), ("p50_ms", look.main)):
                points = [(one.rate_per_s, value.mean) for one in found if (value := getattr(one, field))]
                name = f"p{question.slo.percent:g}" if field == "asked_ms" else "p50"
                label = f"{name}, {replicas} replica{'s' if replicas > 1 else ''}"
                if points:
                    axes.plot(*zip(*points, strict=True), line, color=colour, marker="o", ms=2.5, label=label)
        bound = question.slo.bound_ms
        axes.axhspan(0, bound, color=look.main, alpha=0.08, linewidth=0, label=f"meets {plan.slo}")
        axes.axhline(bound, color=look.text, linewidth=1, linestyle=":")
        axes.axvline(plan.rate_per_s, color=look.text, linewidth=1, label=f"requested: {plan.rate_per_s:g}/s")
        axes.set(xlabel="requests per second, all replicas", ylabel="latency, ms", ylim=(0, 2 * bound))
        axes.legend(fontsize=8)

    return Figure(name="capacity", panels=(draw,), caption=caption)
