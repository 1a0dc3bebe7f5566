"""The page and the chart of a comparison, from its figures.

    python -m benchmarks.peer_page build/peers.json [MORE.json ...] [-o docs/benchmarks.md]

A further file's rows take the place of the same network's and contender's before it; the page names every command.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer_contenders import BARS, CONTENDERS
from docsite.pictures import write_servers

BASE = "fastapi"
"""Whom the tables' ratios are over."""


def write_page(results: Mapping[str, Any], path: Path) -> None:
    """Write the page, and its chart for light and dark pages into the folder `assets` beside it."""
    path.write_text(page := _page(results))
    write_servers(page, path.parent / "assets")


def join_results(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rows of all runs, the later ones' in place of the earlier ones', and what is said of each run."""
    runs: dict[str, dict[str, Any]] = {}
    for one in files:
        for network, rows in one["runs"].items():
            runs.setdefault(network, {}).update(rows)
    told = {
        name: ", ".join(dict.fromkeys(one[name] for one in files))
        for name in ("date", "machine", "instruction_set", "python", "load_average")
    }
    told["rounds"] = " or ".join(dict.fromkeys(f"{one['rounds']}" for one in files if one["runs"]))
    bars = {title: ratios for one in files for title, ratios in one.get("bars", {}).items()}
    return {**files[0], **told, "runs": runs, "bars": bars, "command": "\n    ".join(one["command"] for one in files)}


def bar_lines(results: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return a line for each bar that was measured, and how many were missed: the median of all turns decides."""
    lines, missed = [], 0
    for bar in BARS:
        if not (ratios := results["bars"].get(bar.title)):
            continue
        median = statistics.median(ratios)
        held = median <= bar.limit if bar.at_most else median >= bar.limit
        missed += not held
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        sign = "<=" if bar.at_most else ">="
        verdict = "held" if held else "missed"
        lines.append(f"{verdict}: {median:.3f} ({low:.3f} to {high:.3f}) {sign} {bar.limit:g}: {bar.title}")
    return lines or ["no bar is of what was measured"], missed


def _page(results: Mapping[str, Any]) -> str:
    lines, _ = bar_lines(results)
    turns = " or ".join(map(str, sorted({len(ratios) for ratios in results["bars"].values()})))
    lacks = [f"No {form} here: {reason}." for form, reason in results["lacks"].items()]
    return "\n".join(
        [
            "# Benchmarks: the same networks behind other servers",
            "",
            "Written from one run of each of these commands; a later one's rows replace an earlier one's:"
            if "\n" in results["command"]
            else "Written by this command; every figure is of one run of it:",
            "",
            f"    {results['command']}",
            "",
            f"{results['date']}, {results['machine']}, {results['instruction_set']}, {results['cores']} cores shared "
            f"by server and client, Python {results['python']}, load average {results['load_average']} at the start.",
            "",
            f"One request of one image at a time, and eight, over HTTP; {results['rounds']} rounds "
            f"of {results['seconds']:g} s each, one server at a time, their order rotating. Medians with the range "
            "over the rounds; ratios are over FastAPI with onnxruntime, taken within a round (geometric mean and "
            "range). Weights are random: speed does not depend on them. resx serves what "
            "`resx export` makes by default."
            + ("" if results["wrk"] else " wrk, which would drive the same requests, was not installed."),
            *(["", *lacks] if lacks else []),
            "",
            *(
                f"![Images per second with eight requests in flight](assets/servers-{look}.svg#only-{look})"
                for look in ("light", "dark")
            ),
            "",
            *(line for network, runs in results["runs"].items() for line in _section(network, runs)),
            "## What has to hold",
            "",
            f"Both sides run and are measured by turns, {turns} times, in short windows: the machine's speed "
            "changes within seconds, and the rounds above lie further apart. Medians of the ratios, with the range of "
            "the middle half.",
            "",
            *(f"- {line}" for line in lines),
            "",
            "## The servers",
            "",
            "- resx: the embedded Triton; `--native` computes in the server, without it in a Python process.",
            "- in process: no server; the file as it is served, one batch after the other.",
            *(
                f"- {script}: benchmarks/peers/{script}_server.py; {', '.join(packages)}."
                for script, packages in results["packages"].items()
            ),
            f"- The peers' onnxruntime has a thread for each core; its idle threads busy-wait: {results['spinning']}.",
            "",
            "**Next:** [The server's speed](serving-speed.md) explains where the time goes; "
            "[Benchmark](benchmarking.md) your own model.",
            "",
        ]
    )


def _section(network: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    with_wrk = any(one["wrk_per_s"] for some in runs.values() for one in some)
    columns = [
        "server", "alone, p50 ms", "8 in flight, images/s", "p99 ms", "alone / FastAPI", "8 / FastAPI",
        "answers, wrong", *(["wrk, images/s"] if with_wrk else []),
    ]  # fmt: skip
    lines = [f"## {network}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    base = runs.get(BASE, [])
    for name, some in runs.items():
        if CONTENDERS[name].kind == "in_process":
            continue
        cells = [
            CONTENDERS[name].title, _figure(some, "c1_p50_ms"), _figure(some, "c8_per_s"), _figure(some, "c8_p99_ms"),
            _over(some, base, "c1_p50_ms", name), _over(some, base, "c8_per_s", name),
            f"{sum(one['checked'] for one in some)}, {sum(one['wrong'] for one in some)}",
            *([_figure(some, "wrk_per_s")] if with_wrk else []),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    inside = {name: some for name, some in runs.items() if CONTENDERS[name].kind == "in_process"}
    if inside:
        lines += ["", "| in process | batch 1, ms | batch 4, images/s | batch 8, images/s |", "|---|---|---|---|"]
    for name, some in inside.items():
        title = CONTENDERS[name].title.removeprefix("in process, ")
        cells = [title, *(_figure(some, figure) for figure in ("b1_ms", "b4_per_s", "b8_per_s"))]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _figure(some: Sequence[Mapping[str, Any]], figure: str) -> str:
    values = [one[figure] for one in some if one[figure] is not None]
    if len(values) < len(some) or not values:
        return "n/a"
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def _over(some: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], figure: str, name: str) -> str:
    ratios = [one[figure] / two[figure] for one, two in zip(some, base, strict=False) if one[figure] and two[figure]]
    return "" if name == BASE or not ratios else _spread(ratios, 2)


def _spread(ratios: Sequence[float], digits: int) -> str:
    mean = statistics.geometric_mean(ratios)
    return f"{mean:.{digits}f} ({min(ratios):.{digits}f} to {max(ratios):.{digits}f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the page and the chart of a comparison.")
    parser.add_argument("figures", type=Path, nargs="+", help="what `python -m benchmarks.peers` wrote")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks.md"))
    given = parser.parse_args()
    write_page(join_results([json.loads(path.read_text()) for path in given.figures]), given.output)
