"""The comparison with other servers: its bars and its page, from figures."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from benchmarks import peer_turns
from benchmarks.peer_contenders import BARS, CONTENDERS, FORMS, NETWORKS
from benchmarks.peer_page import bar_lines, join_results, write_page
from benchmarks.peer_rounds import Measuring, Round, answers_per_s
from benchmarks.peer_servers import Running
from benchmarks.peer_turns import by_turns

from resx.bench.results.samples import Samples
from resx.serving.running.processes import stat_fields
from tests.support.running_triton import wait_until

EMPTY = asdict(Round(wrong=0, failed=0, checked=24))


def results(network: str, **figures: list[dict[str, float]]) -> dict[str, Any]:
    runs = {name: [EMPTY | one for one in rounds] for name, rounds in figures.items()}
    return {
        "command": "python -m benchmarks.peers", "date": "2026-01-01", "machine": "CPU", "instruction_set": "avx2",
        "cores": 2, "python": "3.11", "load_average": "0.1", "lacks": {"bf16": "the processor has no BF16 (avx2)"},
        "rounds": 2, "seconds": 1, "spinning": "on", "wrk": False, "packages": {"fastapi": ["fastapi==1"]},
        "runs": {network: runs}, "bars": {},
    }  # fmt: skip


def served(c1_ms: float, per_s: float) -> dict[str, float]:
    return {"c1_p50_ms": c1_ms, "c8_per_s": per_s}


def title_of(network: str, over: str, figure: str) -> str:
    (found,) = {bar.title for bar in BARS if (bar.network, bar.over) == (network, (over, figure))}
    return found


ALONE, MANY = title_of("resnet20", "resx_native", "c1_p50_ms"), title_of("resnet20", "resx_native", "c8_per_s")


def test_a_bar_is_held_by_the_median_of_all_turns() -> None:
    found = results("resnet20") | {"bars": {ALONE: [0.75, 0.7, 0.8, 2.0], MANY: [2.0, 1.9, 2.1]}}

    lines, missed = bar_lines(found)

    assert missed == 0
    assert "held: 0.775 (0.738 to 1.100) <= 0.85: resnet20: resx serve --native, fp32 (median alone)" in lines[0]
    assert "held: 2.000 (1.950 to 2.050) >= 1.65" in lines[1]


@pytest.mark.parametrize(
    ("alone", "many", "missed"), [(0.86, 1.64, 2), (0.86, 1.66, 1), (0.84, 1.64, 1), (0.84, 1.66, 0)]
)
def test_a_missed_bar_is_counted(alone: float, many: float, missed: int) -> None:
    found = results("resnet20") | {"bars": {ALONE: [alone, alone], MANY: [many, many]}}

    assert bar_lines(found)[1] == missed


def test_each_turn_begins_with_the_other_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is measured after a pause is faster for that alone."""
    order: list[str] = []

    @contextlib.contextmanager
    def side(name: str, *_: object) -> Iterator[Callable[[], float]]:
        def window() -> float:
            order.append(name)
            return {"resx_native": 3.0, "fastapi": 2.0}[name]

        yield window

    monkeypatch.setattr(peer_turns, "_side", side)
    (bar,) = (bar for bar in BARS if bar.title == MANY)
    assert by_turns(bar, {}, cast("Measuring", None), 3) == [1.5, 1.5, 1.5]
    assert order == ["resx_native", "fastapi", "fastapi", "resx_native", "resx_native", "fastapi"]


@pytest.mark.parametrize(("opened_s", "closed_s"), [(2.01, 4.01), (2.05, 4.05), (2.09, 4.0999)])
def test_a_window_begins_and_ends_with_a_batch(opened_s: float, closed_s: float) -> None:
    """Batches of eight, ten a second, whose answers come within 2 ms: wherever the window lies, 80 a second."""
    done_ns = (np.arange(1, 60)[:, None] * 1e8 + np.arange(8) * 250_000).astype(np.int64).ravel()
    nothing = np.zeros(len(done_ns), np.int64)
    answered = Samples(due_ns=nothing, sent_ns=nothing, done_ns=done_ns, kind=nothing, errors=())

    assert answers_per_s(answered, int(opened_s * 1e9), int(closed_s * 1e9)) == pytest.approx(80)


def test_a_supervisor_stands_still_but_for_its_servers_turn() -> None:
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        server = Running(host_port="", requests=(), triton=None, supervisor=supervisor.pid)
        with server.asleep():
            wait_until(lambda: stat_fields(supervisor.pid)[0] == "T", "it stands still")
            with server.awake():
                wait_until(lambda: stat_fields(supervisor.pid)[0] == "S", "its turn")
            wait_until(lambda: stat_fields(supervisor.pid)[0] == "T", "it stands still again")
        wait_until(lambda: stat_fields(supervisor.pid)[0] == "S", "it goes on")
        supervisor.kill()


def test_a_window_before_which_nothing_was_answered_begins_when_it_opens() -> None:
    nothing = np.zeros(2, np.int64)
    done_ns = np.array([int(2.5e9), int(3e9)])
    answered = Samples(due_ns=nothing, sent_ns=nothing, done_ns=done_ns, kind=nothing, errors=())

    assert answers_per_s(answered, int(2e9), int(4e9)) == pytest.approx(2)


def test_what_was_not_measured_has_no_verdict() -> None:
    assert bar_lines(results("resnet20", fastapi=[served(1, 1)])) == (["no bar is of what was measured"], 0)


def test_the_page_has_the_tables_the_chart_and_what_the_processor_lacks(tmp_path: Path) -> None:
    found = results(
        "resnet50",
        resx=[served(40, 25), served(44, 24)],
        fastapi=[served(40, 20), served(40, 20)],
        in_process=[{"b1_ms": 39, "b4_per_s": 26, "b8_per_s": 26}] * 2,
    )

    write_page(found, tmp_path / "page.md")

    page = (tmp_path / "page.md").read_text()
    assert "No bf16 here: the processor has no BF16 (avx2)." in page
    assert (
        "| resx serve, fp32 | 42 (40 to 44) | 24.5 (24 to 25) | n/a | 1.05 (1.00 to 1.10) | 1.22 (1.20 to 1.25) |"
        in page
    )
    assert "| onnxruntime fp32 | 39 (39 to 39) |" in page
    for look in ("light", "dark"):
        assert f"(assets/servers-{look}.svg#only-{look})" in page
        assert ">resnet50</text>" in (tmp_path / f"assets/servers-{look}.svg").read_text()


def test_a_page_of_several_runs_says_when_and_how_busy_each_was() -> None:
    first = results("resnet50", fastapi=[served(40, 20)])
    first |= {"bars": {MANY: [1.0, 1.0]}}
    later = results("resnet20", fastapi=[served(1, 900)]) | {"date": "2026-01-02", "load_average": "0.4", "rounds": 5}

    joined = join_results([first, later])

    assert joined["date"] == "2026-01-01, 2026-01-02"
    assert joined["load_average"] == "0.1, 0.4"
    assert joined["rounds"] == "2 or 5"
    assert joined["bars"] == {MANY: [1.0, 1.0]}
    assert joined["machine"] == "CPU"
    assert list(joined["runs"]) == ["resnet50", "resnet20"]


def test_every_bar_names_contenders_and_networks_that_are_measured() -> None:
    for bar in BARS:
        assert bar.network in NETWORKS
        assert {bar.over[0], bar.under[0]} <= set(CONTENDERS)
    assert {one.form for one in CONTENDERS.values()} == set(FORMS)
