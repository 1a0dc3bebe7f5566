"""Sampled answers are right within the card's tolerance, and nothing else is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from resx.bench.load.payloads import Payloads
from resx.bench.results.result import Answers
from resx.bench.results.right_answers import compare_answers
from resx.serving.client.address import parse_address
from tests.support.hostile_server import LOGITS, inference
from tests.support.load_targets import a_target

PAYLOADS = Payloads(
    tensors=(np.zeros((1, 3, 8, 8), np.uint8),),
    contents="the canary",
    expected=(LOGITS[None].astype(np.float64),),  # up to 9
    reference="the card's",
    tolerance=0.01,
)


def judged(*logits: np.ndarray) -> Answers:
    target = a_target(parse_address("127.0.0.1:8000", "http"))
    return compare_answers(target, PAYLOADS, 1, [(0, 0, inference(one.astype(np.float32).tobytes())) for one in logits])


def test_an_answer_within_the_tolerance_is_right() -> None:
    found = judged(LOGITS, LOGITS + 0.08)

    assert (found.checked, found.wrong) == (2, 0)
    assert found.worst == pytest.approx(0.08 / 9, rel=1e-3)


@pytest.mark.parametrize(
    "logits",
    [LOGITS + 0.1, np.append(LOGITS[:-1], np.nan), np.append(LOGITS[:-1], np.inf), LOGITS[:9]],
    ids=["just beyond", "NaN", "infinite", "a class less"],
)
def test_any_other_answer_is_wrong(logits: np.ndarray) -> None:
    found = judged(LOGITS, logits)

    assert (found.checked, found.wrong) == (2, 1)


def test_each_answer_is_compared_with_its_own_request() -> None:
    """Requests are sent in turn, and answers come in any order."""
    turned = LOGITS[::-1]
    payloads = replace(
        PAYLOADS, tensors=PAYLOADS.tensors * 2, expected=(*PAYLOADS.expected, turned[None].astype(float))
    )
    answers = [(0, payload, inference(logits.tobytes())) for payload, logits in ((1, turned), (0, LOGITS), (0, turned))]

    found = compare_answers(a_target(parse_address("127.0.0.1:8000", "http")), payloads, 1, answers)

    assert (found.checked, found.wrong) == (3, 1)
