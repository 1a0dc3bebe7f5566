"""MLPerf's scenarios by its own load generator: against the embedded server, and a fake one of known latency."""

import asyncio
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from resx.bench.load.payloads import Payloads, canaries
from resx.bench.load.scenario_plan import Scenario, ScenarioPlan
from resx.bench.load.wire import Target
from resx.bench.loadgen import MLPERF_LEAST_S, ScenarioResult, read_detail, require_loadgen, run_scenario
from resx.bench.measuring import target_of
from resx.errors import MissingCapability, ResxError, UsageError
from resx.repository.interface import Interface
from resx.serving.client.address import parse_address
from tests.support.running_triton import RunningTriton

LATENCY_S = 0.02


class Fake(asyncio.Protocol):
    """Answers every request 20 ms after it is whole; a stall, or an error from some request on, can be asked for."""

    answered = 0
    stall: tuple[float, float] = (0.0, 0.0)
    """When a stall begins and ends, in seconds of the loop's clock after the first request."""
    first = 0.0
    fail_from = 1 << 60
    open: ClassVar[list[asyncio.Transport]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.received = transport, b""
        self.open.append(transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, _, body = self.received.partition(b"\r\n\r\n")
        length = int(next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")).split()[1])
        if len(body) < length:
            return
        self.received = b""
        loop, kind = asyncio.get_running_loop(), type(self)
        kind.first = kind.first or loop.time()
        at = loop.time() + LATENCY_S
        begin, end = (kind.first + seconds for seconds in kind.stall)
        loop.call_at(end if begin <= at < end else at, self.answer)

    def answer(self) -> None:
        type(self).answered += 1
        status = b"200 OK" if type(self).answered < type(self).fail_from else b"500 Oh"
        body = b'{"error": "told to fail"}'
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


@contextmanager
def fake(**settings: Any) -> Iterator[Target]:
    protocol = type("ThisFake", (Fake,), settings | {"open": []})
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(protocol, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    interface = Interface(
        input_name="image",
        input_type="UINT8",
        output_name="logits",
        num_classes=10,
        input_dims=(3, 4, 4),
        max_batch_size=8,
        parameters={},
    )
    address = parse_address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "http")
    try:
        yield Target(address=address, model="fake", version=None, answering=1, interface=interface)
    finally:
        asyncio.run_coroutine_threadsafe(closed(server, protocol.open), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def closed(server: asyncio.Server, transports: list[asyncio.Transport]) -> None:
    server.close()
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0.05)  # the transports let go of their sockets in turns of the loop


def zeros(batch_size: int = 1) -> Payloads:
    return Payloads(tensors=(np.zeros((batch_size, 3, 4, 4), np.uint8),) * 4, contents="zeros", reference="unchecked")


def run(target: Target, scenario: Scenario, payloads: Payloads, folder: Path, **changes: Any) -> ScenarioResult:
    options = {"duration_s": 2.0, "rate_per_s": 0.0, "latency_bound_ms": 100.0, "connections": 8, "seed": 0}
    if scenario == "Server":
        options["rate_per_s"] = 100.0
    plan = ScenarioPlan(scenario=scenario, log_folder=folder, warmup_s=0.3, **(options | changes))  # type: ignore[arg-type]
    return run_scenario(target, plan, payloads)


@pytest.fixture
def tiny(triton: RunningTriton) -> Target:
    return target_of(triton.state.address("http"), "tiny", None)


@pytest.mark.triton
def test_single_stream_of_a_served_model(tiny: Target, triton: RunningTriton, tmp_path: Path) -> None:
    found = run(tiny, "SingleStream", canaries(triton.repository.card("tiny"), 1), tmp_path, connections=1)

    assert found.valid == (found.loadgen_valid and not found.errors)
    assert found.min_duration_met
    assert found.min_queries_met
    assert found.early_stopping_met
    assert found.answers.checked >= 16
    assert found.answers.wrong == 0
    assert 0 < found.min_ms <= found.p50_ms <= found.p90_ms <= found.p99_ms <= found.p99_9_ms <= found.max_ms
    assert 0 < found.samples_per_s <= 1.01 * 1e3 / found.mean_ms  # one after the other, whatever lies between them
    assert any(line.startswith("90.0th percentile latency") for line in found.lines)
    assert f"MLPerf's rules require {MLPERF_LEAST_S:g} s" in found.remarks[0]


@pytest.mark.triton
def test_server_of_a_served_model(tiny: Target, triton: RunningTriton, tmp_path: Path) -> None:
    found = run(tiny, "Server", canaries(triton.repository.card("tiny"), 1), tmp_path, latency_bound_ms=5000.0)

    assert found.latency_bound_met
    assert found.scheduled_per_s == pytest.approx(100, rel=0.35)
    assert found.answers.wrong == 0
    assert not found.errors
    # 200 queries say nothing of a 99th percentile, by LoadGen's own rule and in its words.
    assert not found.loadgen_valid
    assert not found.valid
    assert any("Would need to run at least" in reason for reason in found.reasons)
    assert Path(found.summary).read_text().startswith("=====")
    assert read_detail(Path(found.detail))["result_validity"] == "INVALID"


@pytest.mark.triton
def test_offline_of_a_served_model_in_batches(tiny: Target, triton: RunningTriton, tmp_path: Path) -> None:
    found = run(tiny, "Offline", canaries(triton.repository.card("tiny"), 4), tmp_path, connections=2)

    assert found.num_queries == 1
    assert found.num_samples > 4  # more than one batch
    assert found.samples_per_s == pytest.approx(found.num_samples / (found.max_ms / 1e3), rel=0.05)
    assert found.answers.wrong == 0
    assert found.early_stopping_met
    assert found.valid == found.min_duration_met


def test_multi_stream_times_queries_of_eight(tmp_path: Path) -> None:
    with fake() as target:
        found = run(target, "MultiStream", zeros(2), tmp_path, connections=2)

    # Four requests of two on two connections: two rounds of 20 ms.
    assert found.samples_per_query == 8
    assert found.p50_ms >= 2 * LATENCY_S * 1e3
    assert any("Need to process at least 662 queries" in reason for reason in found.reasons)


def test_the_latency_of_a_fake_server_is_found(tmp_path: Path) -> None:
    with fake() as target:
        found = run(target, "SingleStream", zeros(), tmp_path)

    assert found.min_ms >= LATENCY_S * 1e3 - 1.0
    assert LATENCY_S * 1e3 - 1.0 <= found.service.p50_ms <= 1.01 * found.p50_ms


def test_a_stall_shows_in_full_in_the_server_scenario(tmp_path: Path) -> None:
    with fake(stall=(1.3, 2.3)) as target:
        found = run(target, "Server", zeros(), tmp_path, connections=4, duration_s=3.0)

    # A third of the requests fell due in the stall, four only were in flight.
    assert found.max_ms > 900
    assert found.p90_ms > 500
    assert found.latency_bound_met is False
    assert any("Reduce target QPS" in reason for reason in found.reasons)


# The warm-up makes 128 requests at most, and the tests below many more than 150.
def test_failed_requests_are_counted_and_make_a_run_invalid(tmp_path: Path) -> None:
    with fake(fail_from=150) as target:
        found = run(target, "Server", zeros(), tmp_path, latency_bound_ms=5000.0)

    assert not found.valid
    assert found.errors["500 Oh: told to fail"] > 0
    assert any("requests failed" in reason for reason in found.reasons)


def test_a_server_that_fails_at_once_is_named_before_the_test(tmp_path: Path) -> None:
    with fake(fail_from=0) as target, pytest.raises(ResxError, match="fake: Server: the warm-up failed: 500 Oh"):
        run(target, "Server", zeros(), tmp_path)


def test_a_server_that_goes_away_ends_the_run_in_its_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    with fake(fail_from=150) as target:
        found = run(target, "Offline", zeros(), tmp_path, rate_per_s=2000.0)

    assert not found.valid
    assert sum(found.errors.values()) > 1000
    assert any("no answer for 3 s" in error for error in found.errors)
    assert time.monotonic() - begun < 600  # and not for ever


def test_no_process_is_left(tmp_path: Path) -> None:
    with fake() as target:
        run(target, "SingleStream", zeros(), tmp_path, duration_s=0.2)

    assert not [child for child in multiprocessing.active_children() if child.name == "resx-loadgen"]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "mlperf_loadgen", raising=False)

    with pytest.raises(MissingCapability, match=r"pip install 'resx\[loadgen\]'"):
        require_loadgen()


@pytest.mark.parametrize(
    ("scenario", "changes", "reason"),
    [
        ("Server", {"payloads": zeros(2)}, "give --batch-size 1"),
        ("Server", {"rate_per_s": 0.0}, "needs a rate"),
        ("Server", {"latency_bound_ms": 0.0}, "needs a latency objective"),
        ("Offline", {"duration_s": 0.0}, "above 0 s"),
        ("Offline", {"connections": 0}, "1 to 1024"),
        ("Offline", {"folder": Path("/proc/no/folder")}, "cannot write its logs there"),
    ],
)
def test_what_does_not_go_together_is_refused(
    scenario: Scenario, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    arguments = {"payloads": zeros(), "folder": tmp_path} | changes
    with fake() as target, pytest.raises(UsageError, match=reason):
        run(target, scenario, **arguments)


def test_grpc_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with fake() as target:
        over_grpc = Target(
            address=parse_address("127.0.0.1:1", "grpc"),
            model="m",
            version=None,
            answering=1,
            interface=target.interface,
        )
        with pytest.raises(UsageError, match="give --protocol http"):
            run(over_grpc, "Server", zeros(), tmp_path)
