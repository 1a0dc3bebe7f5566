"""Run small studies and draw their pictures: `python -m docsite.studies` writes docs/assets/study-*.svg; 10 minutes.

    lesions, paths   of a resnet56 that was trained on the digits
    pareto           what `resx shrink --pareto` finds for it
    omission         a server that stands still for a second, seen by a closed and by an open loop
    capacity         what `resx plan` makes of its service times

Every number comes out of one run of the commands in `_studies`, in an empty folder.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from docsite.pictures import ASSETS
from resx.analysis.shrink.figures import front_figure
from resx.analysis.shrink.search import ShrunkenNetwork
from resx.bench.report.latency_charts import histogram_steps
from resx.bench.results.result import BenchResult, Measurement
from resx.figures import Figure, Look, draw_figure
from resx.repository.versions import Repository
from resx.serving.running.server_state import running_server

_STALL_AT_S, _STALL_S = 9.0, 1.0
"""When the server is stopped after `resx bench` was started, well inside its window, and for how long."""
_BENCH = "bench digits --duration 15 --warmup 1 -o stalled.json"
_LOOKS = ("light", "dark")


def main() -> None:
    """Run the studies and write their pictures."""
    with tempfile.TemporaryDirectory(prefix="resx-studies-") as folder:
        place = Path(folder)
        os.environ["RESX_STATE"] = str(place / "state")
        _studies(place)


def _studies(place: Path) -> None:
    _resx(place, "train resnet56 --data digits --image-size 16 --survival 0.8 --epochs 12 -o runs/digits")
    _resx(place, "lesion runs/digits -o lesions")
    _resx(place, "paths runs/digits -o paths")
    for look in _LOOKS:
        for name, drawn in (
            ("lesion-single", f"lesions/lesion-single-{look}.svg"),
            ("lesion-deleted", f"lesions/lesion-deleted-{look}.svg"),
            ("paths-lengths", f"paths/paths-a-lengths-{look}.svg"),
            ("paths-product", f"paths/paths-c-product-{look}.svg"),
        ):
            shutil.copyfile(place / drawn, ASSETS / f"study-{name}-{look}.svg")
    shrunk = json.loads(_resx(place, "shrink runs/digits --pareto -o small --json"))
    _draw("pareto", front_figure("resnet56", "digits", [ShrunkenNetwork(**one) for one in shrunk["sizes"]]))
    _resx(place, "export runs/digits --max-queue 256")  # a second of requests, which the stall makes wait
    _resx(place, "serve --detach --http-port 0 --grpc-port 0 --metrics-port 0")
    try:
        closed, open_ = (_stalled(place, load) for load in ("--concurrency 1", "--rate 50"))
        _draw("omission", omission_figure(closed, open_))
        _resx(place, "bench digits --concurrency 1,2,4,8,16 --rate 60 --duration 12 -o served.json")
    finally:
        _resx(place, "stop")
    for look in _LOOKS:
        plot = f"--plot {shlex.quote(str(ASSETS / f'study-capacity-{look}.svg'))}"
        _resx(place, f"plan digits --rate 5000 --slo p99=20ms --bench served.json {plot}")


def omission_figure(closed: Measurement, open_: Measurement) -> Figure:
    """Return latency by percentile as both loops saw the same stall."""

    def draw(axes: Any, look: Look) -> None:
        for loop, color, label in (
            (closed, look.second, "closed loop: one request at a time"),
            (open_, look.main, f"open loop: {open_.rate_per_s:g} requests/s"),
        ):
            nines, times = zip(*histogram_steps(loop.hdr), strict=True)
            axes.step(nines, times, where="post", color=color, linewidth=1.8, label=label)
        axes.axhline(1e3 * _STALL_S, color=look.text, linewidth=1, linestyle=":", label="the stall")
        ticks = [0.0, math.log10(2), 1.0, 2.0, 3.0, 4.0]
        axes.set_xticks(ticks, ["0", "50", "90", "99", "99.9", "99.99"])
        axes.set(xlabel="percentile", ylabel="latency, ms", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8, loc="lower right")

    return Figure(
        name="omission",
        panels=(draw,),
        caption=f"The same server, stopped for {_STALL_S:g} s in {closed.window_s:.0f} s. The closed loop sent "
        f"{closed.sent:,} requests, and one of them met the stall: p99 {closed.p99_ms:.3g} ms. The open loop sent "
        f"{open_.sent:,}: p99 {open_.p99_ms:,.0f} ms.",
    )


def _stalled(place: Path, load: str) -> Measurement:
    """Run a load, stop the server for a second in the middle of it, and return what was measured.

    Raises:
        SystemExit: the load failed, or no request met the stall.
    """
    server = running_server(Repository(place / "model_repository"))
    assert server is not None
    running = subprocess.Popen(_command(f"{_BENCH} {load}"), cwd=place, stdout=subprocess.DEVNULL)
    time.sleep(_STALL_AT_S)
    os.kill(server.server_pid, signal.SIGSTOP)
    try:
        time.sleep(_STALL_S)
    finally:
        os.kill(server.server_pid, signal.SIGCONT)
    if running.wait():
        raise SystemExit(f"resx {_BENCH} {load} ended with {running.returncode}")
    (measured,) = BenchResult.model_validate_json((place / "stalled.json").read_text()).measurements
    if measured.max_ms is None or measured.max_ms < 900 * _STALL_S:
        raise SystemExit(f"{load}: no request met the stall; run it again")
    return measured


def _draw(name: str, figure: Figure) -> None:
    for look in _LOOKS:
        draw_figure(figure, ASSETS / f"study-{name}-{look}.svg")


def _command(words: str) -> list[str]:
    return [sys.executable, "-m", "resx", *shlex.split(words)]


def _resx(place: Path, words: str) -> str:
    print(f"resx {words}", flush=True)
    done = subprocess.run(_command(words), cwd=place, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"resx {words} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
