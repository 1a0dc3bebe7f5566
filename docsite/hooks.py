"""What `mkdocs build` does beyond its configuration: generated pages, and a limit on a page's length."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docsite import cli_pages, schema_pages
from resx.cli.main import COMMANDS

_LOG = logging.getLogger("mkdocs.hooks.docsite")

MAX_LINES = 200
"""Of a page: what is longer is not read to its end."""


def leads_on(markdown: str) -> bool:
    """Say whether a page's last paragraph, of one or two lines, says where to go: `**Next:** [a page](page.md)`."""
    last = markdown.rstrip().rpartition("\n\n")[2]
    return last.startswith("**Next:** ") and "](" in last and last.count("\n") <= 1


def on_config(config: Any) -> None:
    """Put the generated pages where mkdocs.yml has the first page of each kind."""
    commands = {group: [f"reference/cli/{one.__name__}.md" for one in members] for group, members in COMMANDS.items()}
    schemas = schema_pages.render_pages()
    results = [
        {schema_pages.title(name): [path for path in schemas if re.fullmatch(rf"reference/{name}(-\d+)?\.md", path)]}
        for name in schema_pages.names()
    ]
    for section in config.nav:
        for pages in section.values():
            if isinstance(pages, list) and "reference/cli/index.md" in pages:
                place = pages.index("reference/cli/index.md")
                pages[place : place + 1] = [
                    {"Command line": ["reference/cli/index.md", *({name: group} for name, group in commands.items())]},
                    *results,
                ]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are written from the program itself."""
    for pages in (cli_pages.render_pages(), schema_pages.render_pages()):
        for path, text in pages.items():
            files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> None:
    """Warn of a page that is too long or leads nowhere, which `--strict` makes an error.

    A page without siblings gets the room of the list of pages, which would name it alone.
    """
    if page.parent is None:
        page.meta["hide"] = ["navigation"]
    path = page.file.src_uri
    num_lines = markdown.count("\n")
    if num_lines > MAX_LINES:
        _LOG.warning("%s has %d lines, more than %d: split it along its topics", path, num_lines, MAX_LINES)
    if page.file.generated_by is None and not leads_on(markdown):
        _LOG.warning("%s does not end with where to go: **Next:** and one or two links", path)


_LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href|srcset)=\"?((?:https?:)?//[^\"> ]+)")


def on_post_build(config: Any) -> None:
    """Warn of a page that loads anything from elsewhere: the site is read without a network, too."""
    site = Path(config.site_dir)
    for page in sorted(site.rglob("*.html")):
        for address in _LOADED.findall(page.read_text()):
            _LOG.warning("%s loads %s, which is not part of the site", page.relative_to(site), address)
