"""Load a card's source again and compare a file with it, as the export did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.card.card import Card
from resx.card.origin import SourceArguments
from resx.card.parity_result import Parity
from resx.errors import ExportError
from resx.export.checks import parity
from resx.export.reference import Exportable
from resx.export.sources.source import load_named

Runtime: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
"""A file that was opened: logits for its input."""


def reload_source(card: Card, arguments: SourceArguments) -> Exportable:
    """Return the source that a card names (`card.named_source`), with the weights it had.

    Raises:
        ExportError: its weights are others today.
        ResxError: it cannot be loaded here.
    """
    source = load_named(arguments)
    if source.description.weights_sha256 != card.source.weights_sha256:
        raise ExportError(f"{arguments.source}: its weights differ from the exported ones")
    return source


def batches_for(card: Card, real: parity.Images, *, with_noise: bool = True, seed: int = 0) -> list[parity.Images]:
    """Return batches of 1, 2 and the largest that the card's file takes, of noise and of `real`."""
    return parity.images_for(
        card.signature, real=real, max_batch_size=card.max_batch_size, seed=seed, with_noise=with_noise
    )


def repeat_parity(card: Card, model: Runtime, source: Exportable) -> Parity:
    """Compare the card's file, opened, with its source under the tolerance of the card's last step.

    Raises:
        ParityError: the file's answers have another shape.
        ExportError: it cannot be run on one of the batches.
    """
    is_int8 = card.quantisation is not None  # compared as the export did: on real images only, and by their classes
    batches = batches_for(card, source.real.images, with_noise=not is_int8)
    classes = source.real.classes if is_int8 else None
    reference = [source.logits(batch) for batch in batches]
    answers = [model(card.signature.as_input(batch)) for batch in batches]
    return parity.compare(card.steps[-1].step, reference, answers, card.steps[-1].tolerance, classes=classes)
