"""What a server's GPUs do, by a driver and by metrics that are handed in: no GPU is needed."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from resx.cli.views.server_status import gpu_line
from resx.serving.client.address import Address
from resx.serving.running.gpu_use import GpuReading, load_nvml, metrics_address, parse_metrics, read_nvml, reader_of
from resx.serving.running.processes import descends_from
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton

METRICS = """\
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-b"} 0.250000
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.750000
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 85520809984.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 1.5e+10
nv_gpu_power_usage{gpu_uuid="GPU-a"} 310.500000
nv_gpu_power_limit{gpu_uuid="GPU-a"} 700.000000
nv_energy_consumption{gpu_uuid="GPU-a"} 4.000000
nv_cpu_utilization 0.000000
"""
A = GpuReading(
    name="GPU-a", utilization=0.75, memory_used_bytes=15_000_000_000, memory_total_bytes=85_520_809_984, power_w=310.5
)
B = GpuReading(name="GPU-b", utilization=0.25)


class Driver:
    """NVML as pynvml shows it, with two GPUs; the second says nothing of power, as some do."""

    def __init__(self, *users: tuple[int, ...], name: str | bytes = "NVIDIA L4") -> None:
        self.users, self.name = users or ((), ()), name

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.users)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, _handle: int) -> str | bytes:  # noqa: N802
        return self.name

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=40 + handle, memory=7)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=2_000_000_000 + handle, free=1, total=24_000_000_000)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        if handle:
            raise RuntimeError("Not Supported")
        return 61_500

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.users[handle]]


def test_tritons_metrics_are_read_gpu_by_gpu_and_what_is_not_said_is_not_known() -> None:
    assert parse_metrics(METRICS) == (A, B)
    assert parse_metrics("nv_cpu_utilization 0.5\n") == ()
    assert parse_metrics('nv_gpu_utilization{gpu_uuid="GPU-a"} 1e999\n') == ()
    assert parse_metrics("<html>not metrics</html>") == ()


@pytest.mark.parametrize("name", ["NVIDIA L4", b"NVIDIA L4"])
def test_nvml_is_read_gpu_by_gpu_and_what_a_gpu_does_not_say_is_not_known(name: str | bytes) -> None:
    first, second = read_nvml(Driver(name=name))
    assert first == GpuReading(
        name="0: NVIDIA L4",
        utilization=0.4,
        memory_used_bytes=2_000_000_000,
        memory_total_bytes=24_000_000_000,
        power_w=61.5,
    )
    assert (second.name, second.utilization, second.power_w) == ("1: NVIDIA L4", 0.41, None)


def test_of_several_gpus_those_of_the_server_are_shown() -> None:
    me, parent, other = os.getpid(), os.getppid(), 1
    assert [gpu.name for gpu in read_nvml(Driver((), (me,)), me)] == ["1: NVIDIA L4"]
    assert [gpu.name for gpu in read_nvml(Driver((me,), ()), parent)] == ["0: NVIDIA L4"]  # a process of its own
    assert len(read_nvml(Driver((other,), ()), me)) == 2  # of another program: the server could not be judged's
    assert len(read_nvml(Driver((me,), ()), None)) == 2


def test_a_process_descends_from_itself_and_from_those_that_started_it() -> None:
    assert descends_from(os.getpid(), os.getpid())
    assert descends_from(os.getpid(), os.getppid())
    assert not descends_from(os.getppid(), os.getpid())
    assert not descends_from(2**22 + 1, os.getpid())


@contextmanager
def metrics_server(text: str) -> Iterator[int]:
    """A server that exports this, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            body = text.encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def driver_that_is_not_asked() -> Any:
    raise AssertionError("the server's metrics answer, and it is not on this machine")


@pytest.mark.parametrize("exported", [METRICS, "nv_cpu_utilization 0.5\n", None])
def test_the_servers_metrics_come_first_then_nvml_where_it_runs_here(
    monkeypatch: pytest.MonkeyPatch, exported: str | None
) -> None:
    with metrics_server(exported or "") as port:
        monkeypatch.setattr("resx.serving.running.gpu_use.TRITONS_METRICS_PORT", port if exported is not None else 9)
        reader = reader_of(Address(host_port="127.0.0.1:8001", protocol="grpc"), Driver)
        assert reader is not None
        if exported == METRICS:
            assert (reader.source, reader.read()) == ("triton_metrics", (A, B))
        else:
            assert reader.source == "nvml"
            assert [gpu.name for gpu in reader.read()] == ["0: NVIDIA L4", "1: NVIDIA L4"]


def test_of_a_server_elsewhere_only_its_metrics_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resx.serving.running.gpu_use.TRITONS_METRICS_PORT", 9)
    elsewhere = Address(host_port="[::ffff:192.0.2.1]:9001", protocol="grpc")
    assert metrics_address(elsewhere, None) == ""  # not Triton's own ports: nobody knows the third
    assert reader_of(elsewhere, driver_that_is_not_asked) is None


@pytest.mark.parametrize(
    ("host_port", "expected"),
    [("gpu7:8000", "gpu7:8002"), ("[::1]:8001", "[::1]:8002"), ("gpu7:443", ""), ("gpu7:18000", "")],
)
def test_the_metrics_port_is_tritons_own(host_port: str, expected: str) -> None:
    assert metrics_address(Address(host_port=host_port, protocol="http"), None) == expected


def test_a_machine_without_the_package_or_the_driver_is_no_error() -> None:
    code = (
        "import sys; sys.modules['pynvml'] = None\n"
        "from resx.serving.running.gpu_use import load_nvml, reader_of\n"
        "from resx.serving.client.address import Address\n"
        "assert load_nvml() is None\n"
        "assert reader_of(Address(host_port='127.0.0.1:9', protocol='http')) is None\n"
        "print('nothing')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing\n", "")


@pytest.mark.parametrize("broken", ["nvmlInit", "nothing"])
def test_a_driver_that_fails_or_has_no_gpu_is_no_error(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def init() -> None:
        if broken == "nvmlInit":
            raise RuntimeError("Driver/library version mismatch")

    def count() -> int:
        raise RuntimeError("Uninitialized")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=init, nvmlDeviceGetCount=count))
    found = load_nvml()
    assert (found is None) == (broken == "nvmlInit")
    if found is not None:
        assert read_nvml(found) == ()


def test_a_line_says_what_is_known() -> None:
    from dataclasses import asdict

    assert gpu_line(asdict(A) | {"source": "triton_metrics"}) == (
        "GPU GPU-a: 75% busy, 15.0 of 85.5 GB, 310 W; from the server's metrics"
    )
    assert gpu_line(asdict(B) | {"source": "nvml"}) == "GPU GPU-b: 25% busy; from NVML"


@pytest.mark.triton
def test_status_has_null_for_a_server_on_the_cpu(triton: RunningTriton, resx: Callable[..., Finished]) -> None:
    if triton.state.device == "gpu":
        pytest.skip("the server has a GPU")
    assert reader_of(triton.state.address("grpc"), driver_that_is_not_asked) is None
    done = resx("status", f"--repository={triton.repository.root}", "--json")
    assert json.loads(done.out)["gpus"] is None
    assert "GPU" not in resx("status", f"--repository={triton.repository.root}").out
