"""Draw the house of docs/architecture.md: `python -m docsite.house` writes docs/assets/house-*.svg.

The rooms and their order are those of pyproject.toml, which import-linter holds the code to.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from docsite.pictures import ASSETS, LOOKS, Colors

_SETTINGS = Path(__file__).parents[1] / "pyproject.toml"
_WORDS = {
    "cli": "the commands: parse, call, print",
    "api": "what import resx gives",
    "bench": "load, latency, tuning, capacity",
    "scoring": "many images, accuracy",
    "serving": "client, embedded Triton, deployment, supervisor",
    "repository": "what Triton reads: versions, config.pbtxt",
    "export": "sources, ONNX graph, int8, TensorRT, verification",
    "runtimes": "run a model file in this process",
    "card": "what a version is, and its proof",
    "analysis": "lesions, paths, shrinking",
    "training": "loop, recipes, the run's folder",
    "data": "data sets, image files",
    "zoo": "networks: spec, catalog, families, weights",
    "figures": "figures in PNG, SVG and PDF files",
    "files": "read, write",
    "streams": "stdout",
    "values": "JSON",
    "pareto": "fronts",
    "names": "checked names",
    "text": "printable text",
    "machine": "cores, limits",
    "gpus": "GPUs",
    "errors": "errors and their exit codes",
}
"""What a room holds; a room alone in its row has more space than one of several."""
_GROUND = "figures"
"""The first of the rows below all rooms."""
_LEFT, _TOP, _WIDTH, _HEIGHT, _STEP, _GAP = 78, 14, 640, 34, 42, 10
_GROUND_SPACE = 26


def read_layers(settings: Path = _SETTINGS) -> list[list[str]]:
    """Return the rooms of each layer, the one that may import all others first."""
    contracts = tomllib.loads(settings.read_text())["tool"]["importlinter"]["contracts"]
    (house,) = (one for one in contracts if one["type"] == "layers" and "containers" not in one)
    return [[room.removeprefix("resx.") for room in layer.split(" | ")] for layer in house["layers"]]


def draw_house(layers: list[list[str]], colors: Colors) -> str:
    """Return the layers as rows, from the top to the ground, as an SVG.

    Raises:
        KeyError: a room has no words here.
    """
    ground = layers.index([_GROUND])
    tops = [_TOP + row * _STEP + (_GROUND_SPACE if row >= ground else 0) for row in range(len(layers))]
    height, width = tops[-1] + _HEIGHT + 14, _LEFT + _WIDTH + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="14">',
        "<title>The rooms of the code: each imports from those below it, never from one above</title>",
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{colors.soft}"/></marker>',
        f'<path d="M52 {_TOP}V{tops[-1] + _HEIGHT}" stroke="{colors.soft}" stroke-width="1.5" marker-end="url(#tip)"/>',
        f'<text transform="translate(36 {height / 2:g}) rotate(-90)" fill="{colors.soft}" text-anchor="middle">'
        "imports go down, never up</text>",
        f'<text x="{_LEFT}" y="{tops[ground] - 11}" fill="{colors.soft}" font-size="13">'
        "the ground: for all rooms</text>",
    ]
    for rooms, top in zip(layers, tops, strict=True):
        parts += _draw_row(rooms, top, colors)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_row(rooms: list[str], top: int, colors: Colors) -> Iterator[str]:
    width = (_WIDTH - _GAP * (len(rooms) - 1)) / len(rooms)
    for number, room in enumerate(rooms):
        left = _LEFT + number * (width + _GAP)
        yield (
            f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{_HEIGHT}" rx="6" fill="{colors.fill}" '
            f'stroke="{colors.edge}"/>'
        )
        yield (
            f'<text x="{left + 12:g}" y="{top + 22}" fill="{colors.text}"><tspan font-weight="600">{room}</tspan>'
            f'<tspan dx="10" fill="{colors.soft}">{_WORDS[room]}</tspan></text>'
        )


def main() -> None:
    """Write the house for light and for dark pages."""
    for name, colors in LOOKS.items():
        (ASSETS / f"house-{name}.svg").write_text(draw_house(read_layers(), colors))


if __name__ == "__main__":
    main()
