"""What a server takes of its machine is read from its processes, or the reason why it is not known is told."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from resx.bench.report import html_report
from resx.bench.result_files import csv_text
from resx.bench.results.server_use import ServerUse, UseBefore, use_after, use_before
from resx.cli.views.bench_result import _show
from resx.serving.client.address import Address
from resx.serving.running.process_use import cpu_s, family, memory_of
from tests.support.report_page import measurement, read_page, result

# A parent that waits, and a child with 64 MB that computes until it is told to stop.
_CHILD = (
    "import sys; held = bytearray(b'x') * 64_000_000; sum(range(3_000_000)); print('done', flush=True); "
    "sys.stdin.read()"
)
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD!r}])"


def test_children_count_and_so_does_what_they_computed_since() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        before = UseBefore(server_pid=parent.pid, missing="", cpu_s={parent.pid: cpu_s(parent.pid)})
        assert parent.stdout is not None
        assert parent.stdout.readline() == "done\n"
        found = use_after(before, before.cpu_since(), 10)
        pids = family(parent.pid)
        parent.communicate("")
    assert found is not None
    assert len(pids) == found.num_processes == 2
    assert found.rss_bytes > 64_000_000
    assert found.pss_bytes is None or 64_000_000 < found.pss_bytes <= found.rss_bytes
    assert found.cpu_s > 0
    assert found.cpu_ms_per_request == pytest.approx(100 * found.cpu_s)


def test_a_process_that_ended_takes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert family(ended.pid) == []
    assert cpu_s(ended.pid) == 0.0
    assert memory_of([ended.pid]) is None
    assert use_after(UseBefore(server_pid=ended.pid, missing=""), 0.0, 1) is None


def test_without_an_answer_there_is_no_time_per_request() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = use_after(UseBefore(server_pid=process.pid, missing=""), 0.5, 0)
        process.communicate(b"\n")
    assert found is not None
    assert found.cpu_ms_per_request is None


@pytest.mark.parametrize(
    ("host_port", "why"),
    [
        ("10.255.255.1:8001", "10.255.255.1:8001 is not on this machine"),
        ("127.0.0.1:1", "127.0.0.1:1 is no embedded server of this user"),
        ("localhost:1", "localhost:1 is no embedded server of this user"),
    ],
)
def test_of_a_server_that_is_not_ours_the_reason_is_told(host_port: str, why: str) -> None:
    before = use_before(Address(host_port=host_port, protocol="grpc"))
    assert why in before.missing
    assert before.cpu_since() == 0.0
    assert use_after(before, 0.0, 1) is None


USE = ServerUse(num_processes=2, rss_bytes=150_000_000, pss_bytes=96_000_000, cpu_s=2.5, cpu_ms_per_request=0.65)


def shown(**changes: object) -> tuple[str, str, str]:
    """Return what the terminal, the CSV and the page say of a load."""
    found = result(measurement().model_copy(update=changes))
    with io.StringIO() as text:
        _show(Console(file=text, width=200), found)
        return text.getvalue(), csv_text(found), read_page(html_report.html(found)).one("server").text


def test_the_terminal_the_csv_and_the_page_say_what_the_server_took() -> None:
    terminal, csv, page = shown(server_use=USE)
    assert "server ms" in terminal
    assert "0.65" in terminal
    assert "server memory: at most 96 MB (RSS 150 MB), 2 processes" in terminal
    assert csv.splitlines()[0].endswith("Server CPU/Request,Server Memory Bytes")
    assert csv.splitlines()[1].endswith(",650,96000000")
    assert "CPU per request, ms" in page
    assert "0.65" in page


def test_where_the_kernel_does_not_share_memory_out_it_is_the_resident_set() -> None:
    terminal, csv, _ = shown(server_use=USE.model_copy(update={"pss_bytes": None, "num_processes": 1}))
    assert "server memory: at most 150 MB, 1 process" in terminal
    assert csv.splitlines()[1].endswith(",650,150000000")


def test_without_knowledge_the_reason_stands_in_its_place() -> None:
    why = "the server at 10.0.0.5:8001 is not on this machine"
    terminal, csv, page = shown(server_use_missing=why)
    assert f"server memory and CPU time unknown: {why}" in terminal
    assert csv.splitlines()[1].endswith(",,")
    assert why in page
    assert "server ms" not in terminal


def test_a_result_of_an_older_version_says_nothing() -> None:
    terminal, _, page = shown()
    assert "unknown" not in terminal
    assert "CPU" not in page
