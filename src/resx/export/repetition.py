"""Load a card's source again and compare a file with it, as the export did."""

from __future__ import annotations

from pathlib import Path

from resx.errors import ExportError
from resx.export import parity
from resx.export.card import Card, Parity
from resx.export.pipeline import Exportable
from resx.export.runtimes import open_model
from resx.export.source import load_source


def reloaded(card: Card) -> Exportable:
    """Return the source that a card names, with the weights it had.

    Raises:
        ExportError: the card does not name it, or its weights are others today.
        ResxError: it cannot be loaded here.
    """
    arguments = card.source.arguments
    if arguments is None:
        raise ExportError(f"{card.name}: its card does not say how to load its source; export it again")
    source = load_source(
        arguments.source, weights=arguments.weights, seed=arguments.seed, image_size=arguments.image_size,
        settings=arguments.settings, file=arguments.file,
    )  # fmt: skip
    if source.description.weights_sha256 != card.source.weights_sha256:
        raise ExportError(f"{arguments.source}: its weights are not those that were exported")
    return source


def repeated_parity(card: Card, path: Path) -> Parity:
    """Compare a file with its source under the tolerance of the card's last step.

    Raises:
        ExportError, ResxError: as `reloaded`.
    """
    source = reloaded(card)
    is_int8 = card.precision == "int8"  # compared as the export did: on real images only, and by their classes
    batches = parity.images_for(
        card.signature, real=source.real.images, max_batch_size=card.max_batch_size, seed=0, with_noise=not is_int8
    )
    classes = source.real.classes if is_int8 else None
    model = open_model(path, card)
    reference = [source.logits(batch) for batch in batches]
    answers = [model(card.signature.as_input(batch)) for batch in batches]
    return parity.compare(card.steps[-1].step, reference, answers, card.steps[-1].tolerance, classes=classes)
