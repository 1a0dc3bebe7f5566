"""What a server takes of its machine is read from its processes, or the reason why it is not known is told."""

import subprocess
import sys

import pytest

from resx.bench.results.server_use import UseBefore, use_after, use_before
from resx.serving.client.address import Address
from resx.serving.running.process_use import cpu_s, family, memory_of

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
