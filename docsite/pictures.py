"""Draw the documentation's pictures: `python -m docsite.pictures` writes docs/assets/line-*.svg and servers-*.svg.

Each is drawn twice, for light and for dark pages. The chart of servers has the figures of docs/benchmarks.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
ASSETS = DOCS / "assets"

_STEPS = (
    ("train", "or take weights,", "or your model"),
    ("fold", "stochastic depth", "into the weights"),
    ("export", "ONNX, TensorRT", "fp16, bf16, int8"),
    ("verify", "the file against", "PyTorch"),
    ("publish", "a version with", "its card"),
    ("serve", "Triton, after", "a self-test"),
    ("bench", "latency, with", "checked answers"),
)
_GATES = {
    3: "differs: exit 3, nothing is published",
    5: "fails: the previous version keeps serving",
}
"""What each of these steps does with a model that is wrong."""

_WIDTH, _HEIGHT = 136, 80
_GAP, _MARGIN = 22, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Colors:
    """Of a picture on a light or on a dark page."""

    text: str
    soft: str
    edge: str
    fill: str
    good: str
    bad: str


LIGHT = Colors(text="#1f2933", soft="#52606d", edge="#9aa5b1", fill="#f5f7fa", good="#0b7a53", bad="#b42318")
DARK = Colors(text="#f0f3f6", soft="#b1bac4", edge="#57606a", fill="#1c2128", good="#4ac26b", bad="#ff938a")
LOOKS = {"light": LIGHT, "dark": DARK}


def draw_line(colors: Colors) -> str:
    """Return the line from a name to a measured service as an SVG."""
    width = 2 * _MARGIN + len(_STEPS) * _WIDTH + (len(_STEPS) - 1) * _GAP
    height = _HEIGHT + 2 * _MARGIN + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" text-anchor="middle">',
        "<title>From a name to a measured service</title>",
        f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{colors.edge}"/></marker>',
    ]
    for number, step in enumerate(_STEPS):
        parts += _draw_step(number, step, colors)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_step(number: int, step: tuple[str, str, str], colors: Colors) -> list[str]:
    left, middle = _MARGIN + number * (_WIDTH + _GAP), _MARGIN + _HEIGHT / 2
    center = left + _WIDTH / 2
    edge = colors.good if number in _GATES else colors.edge
    parts = [
        f'<rect x="{left}" y="{_MARGIN}" width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="{colors.fill}" '
        f'stroke="{edge}" stroke-width="{2 if number in _GATES else 1}"/>',
        _text(center, middle - 14, step[0], colors.text, 18, "600"),
        _text(center, middle + 8, step[1], colors.soft, 14),
        _text(center, middle + 26, step[2], colors.soft, 14),
    ]
    if number + 1 < len(_STEPS):
        end = left + _WIDTH
        parts.append(
            f'<path d="M{end + 2} {middle}H{end + _GAP - 2}" stroke="{colors.edge}" marker-end="url(#tip)"/>',
        )
    if number in _GATES:
        below = _MARGIN + _HEIGHT
        parts.append(f'<path d="M{center} {below}v12" stroke="{colors.bad}"/>')
        parts.append(_text(center, below + 28, _GATES[number], colors.bad, 14))
    return parts


def _text(x: float, y: float, text: str, color: str, size: int, weight: str = "400") -> str:
    return f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}" font-weight="{weight}">{text}</text>'


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A server's images per second: the median and the range over the rounds."""

    server: str
    median: float
    least: float
    most: float


_RANGE = r"([\d.e+]+) \(([\d.e+]+) to ([\d.e+]+)\)"
_ROW = re.compile(rf"^\| ([^|]+) \| {_RANGE} \| {_RANGE} \|", flags=re.MULTILINE)
_BAR, _LABEL, _ROW_HEIGHT = 170, 250, 30


def read_servers(page: str) -> dict[str, list[Bar]]:
    """Return the servers of each network on docs/benchmarks.md, by images per second with eight requests in flight."""
    networks = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        if not body.strip().startswith("| server |"):
            continue
        table = body.strip().partition("\n\n")[0]
        networks[title.strip()] = [
            Bar(server=name, median=float(median), least=float(least), most=float(most))
            for name, *_alone, median, least, most in _ROW.findall(table)
        ]
    return networks


def draw_servers(networks: dict[str, list[Bar]], colors: Colors) -> str:
    """Return each network's servers as bars, side by side, as an SVG."""
    rows = max(map(len, networks.values()))
    width, height = _LABEL + len(networks) * (_BAR + 70) + _MARGIN, rows * _ROW_HEIGHT + 76
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        "<title>Images per second of the same networks behind each server</title>",
    ]
    for number, (network, bars) in enumerate(networks.items()):
        left = _LABEL + number * (_BAR + 70)
        parts.append(f'<text x="{left}" y="24" fill="{colors.text}" font-size="16" font-weight="600">{network}</text>')
        for row, bar in enumerate(bars):
            parts += _draw_bar(bar, left, 40 + row * _ROW_HEIGHT, max(one.most for one in bars), colors, number == 0)
    note = "images per second, 8 requests in flight, median and range of 3 rounds; docs/benchmarks.md"
    parts.append(f'<text x="{_LABEL}" y="{height - 12}" fill="{colors.soft}" font-size="12">{note}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_bar(bar: Bar, left: float, top: float, most: float, colors: Colors, is_named: bool) -> Iterator[str]:
    name = bar.server.replace(", same file", "")
    color = colors.good if bar.server.startswith("resx") else colors.edge
    scale, middle = _BAR / most, top + _ROW_HEIGHT / 2
    if is_named:
        yield (
            f'<text x="{left - 10}" y="{middle + 4}" fill="{colors.text}" font-size="13" '
            f'text-anchor="end">{name}</text>'
        )
    yield f'<rect x="{left}" y="{top + 5}" width="{bar.median * scale:.1f}" height="20" rx="3" fill="{color}"/>'
    yield (
        f'<path d="M{left + bar.least * scale:.1f} {middle}H{left + bar.most * scale:.1f}" '
        f'stroke="{colors.text}" stroke-width="2"/>'
    )
    yield (
        f'<text x="{left + bar.most * scale + 8:.1f}" y="{middle + 4}" fill="{colors.soft}" '
        f'font-size="13">{bar.median:,.0f}</text>'
    )


def write_servers(page: str, folder: Path) -> None:
    """Draw the servers of docs/benchmarks.md, given as text, into the folder."""
    folder.mkdir(exist_ok=True)
    for name, colors in LOOKS.items():
        (folder / f"servers-{name}.svg").write_text(draw_servers(read_servers(page), colors))


def main() -> None:
    """Write every picture."""
    write_servers((DOCS / "benchmarks.md").read_text(), ASSETS)
    for name, colors in LOOKS.items():
        (ASSETS / f"line-{name}.svg").write_text(draw_line(colors))


if __name__ == "__main__":
    main()
