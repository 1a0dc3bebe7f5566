"""Small pictures inside a page: images as data, each with its words."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

_EDGE = 96
_LOSSLESS = 64
"""Pixels up to which an image is kept as it is."""

STYLE = """
.tiles{list-style:none;margin:0 0 20px;padding:0;display:flex;flex-wrap:wrap;gap:12px}
.tiles li{width:112px;font-size:12px;line-height:1.35;color:var(--quiet);overflow-wrap:anywhere}
.tiles img{display:block;width:96px;height:96px;object-fit:contain;background:var(--raised);margin-bottom:4px}
.tiles img.small{image-rendering:pixelated}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """An image of a data set and what is said of it."""

    name: str
    words: str
    data: str
    """A data: URI."""
    is_small: bool
    """Whether its pixels are shown enlarged."""


def make_tile(image: Image.Image, *, name: str, words: str) -> Tile:
    """Return an RGB image as a tile: small ones whole and without loss, others at 96 pixels as JPEG."""
    is_small = max(image.size) <= _LOSSLESS
    small = image.copy()
    if not is_small:
        small.thumbnail((_EDGE, _EDGE))
    buffer = io.BytesIO()
    kind = "png" if is_small else "jpeg"
    small.save(buffer, kind, **({} if is_small else {"quality": 85}))
    data = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Tile(name=name, words=words, data=data, is_small=is_small)


def tiles_html(tiles: Sequence[Tile]) -> str:
    """Return the tiles beside one another; empty for none."""
    items = "".join(
        f'<li><img class="{"small" if tile.is_small else "large"}" src="{tile.data}" width="96" height="96" '
        f'alt="{escape(f"{tile.name}: {tile.words}")}"><span>{escape(tile.words)}<br>{escape(tile.name)}</span></li>'
        for tile in tiles
    )
    return f'<ul class="tiles">{items}</ul>' if items else ""
