"""What to do about a server, or one model, that failed: decided by how its recoveries went so far, and by nothing else.

    the server   started anew, up to `max_tries` times in a row; then it goes on without the model that it ended with,
                 or, if it was none, is given up
    a model      its process died, or it does not load: loaded again, up to `max_tries` times in a row
                 it finishes nothing: the same, but twice at most, as each takes as long as a model may hang
                 a wrong answer or an error: loaded again, once, as the fault may be its process's; wrong again, at
                 once or within `probation_s`: set aside

Nothing here waits, asks or changes anything; times are seconds on the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from resx.errors import ResxError, ServerBusy, ServerError
from resx.serving.client.server_errors import ConnectionLost, ModelProcessLost, NoAnswerInTime, NotLoaded
from resx.serving.supervisor.policy import Policy

Kind: TypeAlias = Literal["died", "hangs", "wrong"]
"""Its process died or it did not load, it finishes nothing, or it gives a wrong answer or an error."""
_HANGING_TRIES = 2
_LONG_AGO_S = float("-inf")


class LoadFailed(ServerError):  # noqa: N818 - named after what happened
    """The server could not load a model."""


_KINDS: tuple[tuple[type[ResxError], Kind], ...] = (
    (NoAnswerInTime, "hangs"),
    (LoadFailed, "died"),
    (NotLoaded, "died"),
    (ModelProcessLost, "died"),
    (ConnectionLost, "died"),
    (ServerBusy, "died"),
    (ResxError, "wrong"),
)


def kind_of(error: ResxError) -> Kind:
    """Return what an error of loading or proving a model says of it."""
    return next(kind for error_type, kind in _KINDS if isinstance(error, error_type))


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """How the recoveries of the server, or of one model, went so far."""

    failed_in_a_row: int = 0
    loaded_s: float = _LONG_AGO_S
    """When a model was last loaded again."""
    serving_since_s: float = _LONG_AGO_S
    """Of the last recovery; what fails soon after a first start is not a recovery that did not hold."""
    doubted_s: float = _LONG_AGO_S
    """When a model was last loaded again for a wrong answer, or was the reason for a new server."""

    def is_doubted(self, policy: Policy, now_s: float) -> bool:
        """Say whether it is on probation."""
        return now_s - self.doubted_s < policy.probation_s


def failed_again(history: History, policy: Policy, since_s: float) -> History:
    """Return the history with a fault that came at `since_s`: a recovery before it that held counts no more."""
    held = policy.holds(since_s - history.serving_since_s, history.failed_in_a_row)
    return replace(history, failed_in_a_row=0 if held else history.failed_in_a_row + 1)


def is_incurable(kind: Kind, history: History, policy: Policy, now_s: float) -> bool:
    """Say whether a model with such a fault is to be set aside, not loaded again."""
    if kind == "wrong":
        return history.is_doubted(policy, now_s)
    tries = policy.max_tries if kind == "died" else min(_HANGING_TRIES, policy.max_tries)
    return history.failed_in_a_row >= tries


def wait_before_loading_s(kind: Kind, history: History, policy: Policy, now_s: float) -> float:
    """Return how long to wait until a model is loaded again, or set aside."""
    at_once = kind == "wrong" or is_incurable(kind, history, policy, now_s)
    return 0.0 if at_once else policy.wait_s(history.failed_in_a_row)


def next_step(history: History, policy: Policy, *, has_culprit: bool) -> Literal["restart", "set aside", "give up"]:
    """Return what to do about a server that is down; `has_culprit`: it ended with one model at its last start."""
    if history.failed_in_a_row < policy.max_tries:
        return "restart"
    return "set aside" if has_culprit else "give up"
