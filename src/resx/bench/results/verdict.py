"""May a measurement's figures be used, and what should whoever uses them know?"""

from __future__ import annotations

from dataclasses import dataclass

from resx.bench.load.load_plan import LoadPlan
from resx.bench.results.response_cache import why_unusable
from resx.bench.results.result import Answers, Client, Late, Stability
from resx.bench.results.server_statistics import ServerBreakdown

LATE_SHARE, LATE_LEAST_MS, LATE_OF_MEDIAN = 0.01, 1.0, 0.1
"""A request is late if it left more than 1 ms, and more than a tenth of the median latency, after it was due."""
_LEAST_LATE = 2
"""One late request is no share: of nine it would be 11 %, and say nothing of the other eight."""
STABLE_SPREAD = 0.10
CLIENT_BOUND = 10.0
"""The generator must be able to make ten times what it did."""
SOMEBODY_ELSE = "other clients used the model during the measurement"
_CANARIES_PER_S, _CANARIES_MORE = 1.0, 2
"""What `resx serve` asks an idle model itself at most, and how many more fit between the readings around a window."""
_ACHIEVED = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a window showed."""

    plan: LoadPlan
    sent: int
    answered: int
    window_s: float
    requests_per_s: float
    """Answers in the window's time."""
    client: Client
    late: Late | None
    answers: Answers
    stability: Stability
    server: ServerBreakdown | None
    cached_share: float | None
    """Of the requests, by the response cache; None where the server does not say."""
    most_served: int
    """Requests of this load that the server can have counted; others were canaries or somebody else's."""
    interrupted: str
    """Why the window closed early; empty: it did not."""
    server_is_local: bool
    throttled: tuple[str, ...] = ()
    """Who stood still for want of CPU quota, and how often."""


def is_too_late(late: Late) -> bool:
    """Say whether so many requests left late that the load was not the one that was asked for."""
    return late.num_late >= _LEAST_LATE and late.share > LATE_SHARE


def reasons_against(found: Findings) -> tuple[str, ...]:
    """Return why the figures must not be used; nothing if they may."""
    reasons = []
    if not found.answered:
        reasons.append("no request was answered in the window")
    if found.answers.wrong:
        reasons.append(f"{found.answers.wrong} of {found.answers.checked} sampled answers are wrong")
    if found.interrupted:
        reasons.append(f"the measurement ended early: {found.interrupted}")
    if cached := why_unusable(found.cached_share):
        reasons.append(cached)
    if found.late is not None and is_too_late(found.late):
        reasons.append(
            f"{found.late.share:.1%} of the requests were sent over {found.late.threshold_ms:.1f} ms late: the client "
            "lacked CPU time; stop other programs, lower --rate, or run the client on another machine"
        )
    return tuple(reasons)


def remarks_on(found: Findings) -> tuple[str, ...]:
    """Return what else is to be known."""
    plan, remarks = found.plan, []
    if failed := found.sent - found.answered:
        remarks.append(f"{failed} of {found.sent} requests failed")
    due_per_s = found.sent / found.window_s if found.window_s else 0.0
    if plan.is_open and found.answered and found.requests_per_s < _ACHIEVED * due_per_s:
        remarks.append(
            f"the server is overloaded: it answered {found.requests_per_s:.1f} of {due_per_s:.1f} requests/s, "
            "so latency keeps growing"
        )
    if found.answered and not found.stability.stable:
        remarks.append(f"unstable: throughput varied by {found.stability.spread:.0%}; use a longer --duration")
    ceiling = found.client.ceiling_requests_per_s
    if ceiling is not None and found.requests_per_s * CLIENT_BOUND > ceiling:
        remarks.append(
            f"client-bound: the load generator can send at most {ceiling:.0f}/s, less than {CLIENT_BOUND:g} times this"
        )
    canaries = _CANARIES_PER_S * found.window_s + _CANARIES_MORE
    if found.server is not None and found.server.requests > found.most_served + canaries:
        remarks.append(SOMEBODY_ELSE)
    remarks += found.throttled
    if found.cached_share is None:
        remarks.append("the server does not report how many answers came from its response cache")
    elif found.cached_share and not why_unusable(found.cached_share):
        remarks.append(f"the response cache answered {found.cached_share:.2%} of the requests")
    if found.server_is_local:
        remarks.append("client and server share this machine")
    if found.answered and not found.answers.checked:
        remarks.append(found.answers.reference)
    return tuple(remarks)
