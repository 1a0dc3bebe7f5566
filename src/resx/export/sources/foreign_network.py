"""A network of somebody else's making as its collection gives it, and what the user may set of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from resx.errors import UsageError
from resx.zoo.spec import ImageFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignNetwork:
    """A network, how its authors prepare images for it, and what its classes are called."""

    model: nn.Module
    image: ImageFormat
    labels: tuple[str, ...] = ()
    origin: str
    """Of the weights, for the card."""


def requested_classes(text: str, settings: Sequence[str]) -> int | None:
    """Return N of `classes=N`, the one setting that all networks of a collection have; None: the network's own."""
    if not settings:
        return None
    field, _, number = settings[-1].partition("=")
    if len(settings) > 1 or field != "classes" or not (number.isascii() and number.isdigit()) or int(number) < 2:
        raise UsageError(f"--set {' '.join(settings)}: {text} takes classes=N only, with N of 2 or more")
    return int(number)
