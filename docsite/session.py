"""Record a terminal: `python -m docsite.session` runs the README's commands and draws docs/assets/session.svg."""

from __future__ import annotations

import io
import os
import re
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from docsite import console_pages
from docsite.pictures import ASSETS

_WIDTH = 100
_WITHOUT_FONTS = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Rich's own template names fonts on a server elsewhere; the reader's do."""


def draw_session(page: Path, environment: dict[str, str]) -> str:
    """Run a page's commands in an empty folder and return them with their output as an SVG.

    Raises:
        SystemExit: a command failed.
    """
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        console_pages.prepare(Path(folder))
        steps = console_pages.steps_of(page.read_text())
        colored = {**environment, "FORCE_COLOR": "1", "RESX_EXPORT_CACHE_GB": "0"}
        for step, code, output in console_pages.run(steps, Path(folder), colored, width=_WIDTH):
            if code:
                raise SystemExit(f"{step.text} ended with {code}:\n{output}")
            console.print(Text.assemble(("$ ", "bold green"), (step.text, "bold")))
            console.print(Text.from_ansi(output.rstrip()), crop=False)
    return console.export_svg(title="resx", code_format=_WITHOUT_FONTS, unique_id="session")


if __name__ == "__main__":
    (ASSETS / "session.svg").write_text(draw_session(console_pages.ROOT / "README.md", dict(os.environ)))
