"""A report's page: one HTML file that needs nothing else, with its sections and their links."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from resx.bench.report.html_style import STYLE

# Without scripts, fonts, files or connections, even if a name should ever get by unescaped.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_POLICY_WITH_IMAGES = f"{_POLICY}; img-src data:"
_PATTERN = (
    '<svg class="swatch" aria-hidden="true" style="position:absolute"><defs><pattern id="waiting" width="6" height="6" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6"/><path d="M1.5 0V6"/>'
    "</pattern></defs></svg>"
)


def page(
    title: str,
    *,
    subtitle: str,
    sections: Sequence[tuple[str, str, str]],
    first: str,
    resx: str,
    style: str = "",
    with_images: bool = False,
) -> str:
    """Return the page.

    Args:
        title: escaped here, as all but the markup is.
        subtitle: markup.
        sections: id, heading (empty: not linked) and markup of each; without markup it is left out.
        first: what the first section is called.
        resx: the version that writes it.
        style: rules beside the report's own.
        with_images: whether it holds images, which are data in it.
    """
    present = [(name, heading, body) for name, heading, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in present if heading)
    body = "".join(
        f'<section id="{name}">{f"<h2>{heading}</h2>" if heading else ""}{content}</section>'
        for name, heading, content in present
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY_WITH_IMAGES if with_images else _POLICY}">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">Skip to the {first}</a>{_PATTERN}\n'
        f"<header><h1>{escape(title)}</h1>{subtitle}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f'<main id="main" tabindex="-1">\n{body}\n</main>\n'
        f"<footer><p>Written by resx {escape(resx)}.</p></footer>\n</body>\n</html>\n"
    )
