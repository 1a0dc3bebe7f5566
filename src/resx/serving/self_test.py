"""The self-test of a served version: send its canary, all the rows that were recorded, and judge the answer.

The rows go in one request, because they were recorded in one: a file whose rows depend on each other answers
differently where fewer are asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resx.errors import ParityError
from resx.export import card as cards
from resx.export.card import Card
from resx.serving.client import Interface, TritonClient, WrongAnswer


def run_self_test(client: TritonClient, served_as: str, version: int, card: Card, interface: Interface) -> float:
    """Send the canary and return how far the answer is from the card's, relative to the logits' scale.

    Raises:
        ParityError: it is too far, not finite, or of another shape.
        ResxError: there was no answer.
    """
    images = cards.canary_input(card.signature, card.canary.num_images)
    try:
        answer = client.infer(served_as, interface, images, version).logits
    except WrongAnswer as error:
        reason = f"the served answer does not fit: {error.__cause__ or error}"
        raise ParityError(f"{card.name} version {version}: {reason}") from error
    difference = cards.canary_difference(card.canary, answer)
    if not difference <= card.canary.tolerance:
        raise ParityError(f"{card.name} version {version}: {_verdict(card, answer, difference)}")
    return difference


def _verdict(card: Card, answer: npt.NDArray[Any], difference: float) -> str:
    wanted = (len(card.canary.logits), len(card.canary.logits[0]))
    if answer.shape != wanted:
        return f"the served answer has the shape {list(answer.shape)}, the card's {list(wanted)}"
    if not np.isfinite(answer).all():
        return "the served answer is not finite"
    return (
        f"the served answer differs from the card's by {difference:.3g} of its scale, allowed {card.canary.tolerance:g}"
    )
