"""How the image lies in the input of a third party's file, in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resx.card.card import Card

_PLACES = {"nchw": "channels first", "nhwc": "channels last"}


def image_input(card: Card) -> str:
    """Return how the file takes an image and who said so; empty where it is the usual form, or no image."""
    own, named = card.source.signature, card.source.arguments
    if own is None or own.resize is None or named is None:
        return ""
    given = named.file
    if (own.layout, own.channels, own.pixel_max) == ("nchw", "rgb", 1) and given.layout is None:
        return ""
    height, width = own.pixel_dims[1:]
    guessed = own.layout == "nhwc" and given.layout is None
    place = _PLACES[own.layout] + (" (guessed from the shape; --layout nchw overrides it)" if guessed else "")
    white = f", white is {own.pixel_max}" if own.input_type == "float32" else ""
    prepared = card.signature.input_name != own.input_name
    behind = f"; {card.signature.input_name} takes RGB pixels, and the graph converts them" if prepared else ""
    return f"{own.input_name} takes {height} x {width} {own.channels.upper()}{white}, {place}{behind}"
