"""The self-test of a served version: send its canary, all the rows that were recorded, and judge the answer.

The rows go in one request, because they were recorded in one: a file whose rows depend on each other answers
differently where fewer are asked.

A model with a response cache would answer the same request from memory, its process dead or not. Triton's key is the
model, its version and the bytes of the inputs (tried on 2.51: request id, parameters, priority, timeout, sequence and
outputs change nothing), so only a row that it never saw reaches the model. A random one goes with the recorded rows,
in place of one of them where all would be too many; then those are computed too. A model whose batch cannot change
gets it in a request of its own, whose answer must be finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resx.card import canary_rows, int8_processor
from resx.card.canary_rows import Canary
from resx.card.card import Card
from resx.errors import ParityError
from resx.repository.interface import Interface
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import WrongAnswer

_NOT_FINITE = "the served answer is not finite"


def run_self_test(client: TritonClient, served_as: str, version: int, card: Card, interface: Interface) -> float:
    """Send the canary and return how far the answer is from the card's, relative to the logits' scale.

    Raises:
        ParityError: it is too far, not finite, or of another shape.
        ResxError: there was no answer.
    """
    images, canary = canary_rows.canary_input(card.signature, card.canary.num_images), card.canary
    never_seen = _never_seen(card, interface)
    if num_requests(interface) > 1:
        answer = _answer(client, served_as, version, card, interface, never_seen)
        if not np.isfinite(answer).all():
            raise ParityError(f"{card.name} version {version}: {_NOT_FINITE}")
    elif len(never_seen):
        asked = np.sort(np.random.default_rng().permutation(len(images))[: interface.max_batch_size - 1])
        canary = canary.model_copy(update={"logits": tuple(canary.logits[row] for row in asked)})
        images = np.concatenate([images[asked], never_seen])
    answer = _answer(client, served_as, version, card, interface, images)
    answer = answer[: len(canary.logits)]  # the row that nobody has seen has no answer to be compared with
    difference = canary_rows.canary_difference(canary, answer)
    if not difference <= canary.tolerance:
        raise ParityError(f"{card.name} version {version}: {_verdict(canary, answer, difference)}")
    return difference


def num_requests(interface: Interface) -> int:
    """Return how many requests a self-test sends."""
    return 2 if _num_never_seen(interface) and (interface.fixed_batch or interface.max_batch_size < 2) else 1


def repeat_int8(
    client: TritonClient, served_as: str, version: int, card: Card, interface: Interface, processor: str
) -> float:
    """Ask an int8 version the rows that its card keeps for processors with other 8-bit instructions.

    Raises:
        ParityError: it answers otherwise than on the processor that it was verified on.
        ResxError: there was no answer.
    """
    return int8_processor.repeat_parity(
        card,
        lambda batch: _answer(client, served_as, version, card, interface, batch),
        max_batch_size=max(1, interface.max_batch_size),
        processor=processor,
    )


def _never_seen(card: Card, interface: Interface) -> npt.NDArray[Any]:
    """Return a request's rows of noise, other ones each time; none for a model without a cache."""
    shape = (_num_never_seen(interface), *card.signature.pixel_dims)
    return card.signature.as_input(np.random.default_rng().integers(0, 256, size=shape, dtype=np.uint8))


def _num_never_seen(interface: Interface) -> int:
    return (interface.max_batch_size if interface.fixed_batch else 1) if interface.has_cache else 0


def _answer(
    client: TritonClient, served_as: str, version: int, card: Card, interface: Interface, sent: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    try:
        return client.infer(served_as, interface, sent, version).logits
    except WrongAnswer as error:
        reason = f"the served answer does not match: {error.__cause__ or error}"
        raise ParityError(f"{card.name} version {version}: {reason}") from error


def _verdict(canary: Canary, answer: npt.NDArray[Any], difference: float) -> str:
    wanted = (len(canary.logits), len(canary.logits[0]))
    if answer.shape != wanted:
        return f"the served answer has the shape {list(answer.shape)}, the card's {list(wanted)}"
    if not np.isfinite(answer).all():
        return _NOT_FINITE
    return f"the served answer differs from the card's by {difference:.3g} of its scale, allowed {canary.tolerance:g}"
