"""May the figures be used, and why not; then the figures one looks for first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal, TypeAlias

from resx.bench.report.html_parts import brief, count, labels, percent
from resx.bench.report.sections.load_tables import flagged_loads
from resx.bench.results.result import BenchResult

_State: TypeAlias = Literal["good", "warn", "bad"]
_SIGNS: dict[_State, str] = {"good": "✓", "warn": "⚠\ufe0e", "bad": "✗"}  # \ufe0e: as text, not as a picture


def verdict_section(result: BenchResult) -> str:
    """Return the headline with its reasons and remarks, and the first figures."""
    named = list(zip(labels(result.measurements), result.measurements, strict=True))
    word, told, state = _headline(result)
    stopped = any(m.interrupted for m in result.measurements)
    interrupted = "<p>The measurement was interrupted; these are the figures up to that point.</p>" if stopped else ""
    reasons = _grouped((reason, name) for name, m in named for reason in m.invalid)
    remarks = _grouped((remark, name) for name, m in named for remark in m.remarks)
    return (
        f'<div class="verdict {state}"><h2><b>{_SIGNS[state]} {word}</b>: {escape(told)}</h2>'
        + interrupted
        + _list("Why", reasons, len(named))
        + _list("Remarks", remarks, len(named))
        + f"</div>{_facts(result)}"
    )


def _headline(result: BenchResult) -> tuple[str, str, _State]:
    """Return the verdict's word, what it means, and how good it is."""
    number, invalid = len(result.measurements), sum(bool(m.invalid) for m in result.measurements)
    if not number:
        return "INVALID", "nothing was measured", "bad"
    if result.slo is not None:
        asked, rate = result.slo.get("asked"), result.slo.get("rate_per_s")
        beyond = (
            f"; {invalid} of {count(number, 'trial')} are INVALID, because the search exceeds what the server can "
            "sustain"
        )
        if not isinstance(rate, int | float):
            return "Not found", f"no rate was found that meets {asked}", "bad"
        return "Found", f"{brief(rate)} requests per second meet {asked}{beyond if invalid else ''}", "good"
    if invalid:
        return "INVALID", f"the figures of {invalid} of {count(number, 'load')} must not be used", "bad"
    usable = f"the figures of {'the one load' if number == 1 else f'all {number} loads'} may be used"
    if unstable := len(flagged_loads(result.measurements)):
        varied = "its throughput" if number == 1 else f"the throughput of {unstable}"
        return "Valid, but unstable", f"{usable}, but {varied} varied while it was measured", "warn"
    return "Valid", usable, "good"


def _grouped(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for words, name in found:
        groups.setdefault(words, []).append(name)
    return groups


def _list(heading: str, groups: dict[str, list[str]], num_loads: int) -> str:
    if not groups:
        return ""
    items = [
        f"<li>{escape(words)}"
        + ("</li>" if len(names) == num_loads else f' <span class="quiet">({escape(_few(names))})</span></li>')
        for words, names in groups.items()
    ]
    return f"<h3>{heading}</h3><ul>{''.join(items)}</ul>"


def _few(names: Sequence[str]) -> str:
    return "; ".join(names) if len(names) <= 4 else f"{'; '.join(names[:3])} and {len(names) - 3} more"


def _facts(result: BenchResult) -> str:
    """The best throughput, the shortest median, failures and wrong answers, of the loads that are valid."""
    usable = [m for m in result.measurements if not m.invalid]
    if not usable:
        return ""
    best = max(usable, key=lambda m: m.images_per_s)
    facts = [("Most images per second", brief(best.images_per_s), f"{best.target}, {best.title}")]
    quick = min((m for m in usable if m.p50_ms is not None), key=lambda m: m.p50_ms or 0.0, default=None)
    if quick is not None and quick.p50_ms is not None:
        tail = "p99 n/a" if quick.p99_ms is None else f"p99 {brief(quick.p99_ms)} ms"
        facts.append(("Shortest median", f"{brief(quick.p50_ms)} ms", f"{quick.title}, {tail}"))
    sent, failed = sum(m.sent for m in result.measurements), sum(m.failed for m in result.measurements)
    facts.append(("Requests failed", f"{failed:,}", f"of {sent:,} sent"))
    checked, wrong = (sum(getattr(m.answers, key) for m in result.measurements) for key in ("checked", "wrong"))
    facts.append(
        ("Answers wrong", f"{wrong:,}" if checked else "not checked", f"of {checked:,} checked" if checked else "")
    )
    served = [m.in_process.efficiency for m in usable if m.in_process is not None]
    if served:
        facts.append(("Serving efficiency", percent(max(served), 0), "at most, of the same file in process"))
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for name, value, detail in facts
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'
