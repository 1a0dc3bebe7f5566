"""Are the answers right? A sample of them against the logits that are known."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from resx.bench.load import wire
from resx.bench.load.payloads import Payloads
from resx.bench.results.result import Answers
from resx.errors import ServerError


def compare_answers(
    target: wire.Target, payloads: Payloads, batch_size: int, answers: Iterable[tuple[int, int, bytes]]
) -> Answers:
    """Compare answers (when each came, which payload it answers, its bytes); one that cannot be read is wrong."""
    apart = [_apart(target, payloads, batch_size, payload, answer) for _, payload, answer in answers]
    finite = [value for value in apart if np.isfinite(value)]
    return Answers(
        checked=len(apart),
        wrong=sum(not value <= payloads.tolerance for value in apart),
        reference=payloads.reference,
        worst=max(finite, default=None),
        tolerance=payloads.tolerance,
    )


def difference(expected: npt.NDArray[np.float64], answer: npt.NDArray[np.float32]) -> float:
    """Return the largest difference of logits, relative to their scale; inf if they are not comparable."""
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.abs(answer - expected).max() / (np.abs(expected).max() or 1.0))


def _apart(target: wire.Target, payloads: Payloads, batch_size: int, payload: int, answer: bytes) -> float:
    try:
        return difference(payloads.expected[payload], wire.logits_of(target, answer, batch_size))
    except ServerError:
        return float("inf")
