"""What became of the steps of `benchmarks.gpu`, as gpu.json and gpu.html."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Outcome: TypeAlias = Literal["passed", "failed", "invalid", "not run"]
"""Invalid: it ran, and says itself that its figures may not be used, such as those of a client that was late."""
Figures: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that ran, or did not."""

    name: str
    outcome: Outcome
    why: str = ""
    """Of a step that failed or did not run."""
    took_s: float = 0.0
    command: str = ""
    figures: Figures = dataclasses.field(default_factory=dict)


def count(steps: Sequence[Step]) -> str:
    """Return how many steps came to what."""
    outcomes = [step.outcome for step in steps]
    kinds: tuple[Outcome, ...] = ("passed", "failed", "invalid", "not run")
    return ", ".join(f"{outcomes.count(kind)} {kind}" for kind in kinds)


def write_report(folder: Path, machine: Figures, steps: Sequence[Step]) -> None:
    """Write gpu.json and gpu.html anew."""
    whole = {"machine": machine, "steps": [dataclasses.asdict(step) for step in steps]}
    (folder / "gpu.json").write_text(json.dumps(whole, indent=2) + "\n")
    rows = "".join(_row(step) for step in steps)
    facts = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(str(value))}</td></tr>" for key, value in machine.items()
    )
    (folder / "gpu.html").write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>resx on a GPU</title><style>{_STYLE}</style>'
        f"<h1>resx on a GPU</h1><p>{count(steps)}</p><table>{facts}</table>"
        "<table><tr><th>Step</th><th>Outcome</th><th>Seconds</th><th>Figures, or why not</th></tr>\n"
        f"{rows}</table></html>\n"
    )


def _row(step: Step) -> str:
    what = f"{html.escape(step.name)}<br><code>{html.escape(step.command)}</code>"
    kind = step.outcome.replace(" ", "-")
    cells = f"<td>{what}</td><td>{step.outcome}</td><td class=n>{step.took_s:.1f}</td><td>{_details(step)}</td>"
    return f'<tr class="{kind}">{cells}</tr>\n'


def _details(step: Step) -> str:
    lines = [html.escape(step.why)] if step.why else []
    for key, value in step.figures.items():
        entries = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        lines += [html.escape(f"{key}: {entry}") for entry in entries]
    return "<br>".join(lines)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: 1rem 0; width: 100% } th, td { text-align: left; padding: .4rem .6rem;
vertical-align: top; border-bottom: 1px solid #ddd } td.n { text-align: right } code { color: #555; font-size: .8rem }
.failed td:nth-child(2), .invalid td:nth-child(2) { color: #b00020; font-weight: 600 }
.passed td:nth-child(2) { color: #136f2c }
.not-run td:nth-child(2) { color: #777 }
"""
