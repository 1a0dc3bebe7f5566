"""Three servers behind HAProxy, under load: one is killed and comes back, then all get a new version in turn.

    make fleet
    python -m benchmarks.fleet [--model resnet20] [--servers 3] [--rate 150] [--seconds 8]

Embedded servers of one thread each over repositories of their own, deploy/proxy/haproxy.cfg in front of them, and
clients of both protocols with the client's retries, each sending at a fixed rate and comparing every answer. Latency
counts from when a request was due. All of it shares one machine's cores, so the figures say what a fault does to the
latency, not how fast a fleet is. Servers die with their supervisors, by SIGKILL, as if their machine were lost.

Bars: no failed request and no wrong answer; in the upgrade both versions are seen. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.support import debian
from tests.support.running_triton import FREE, wait_until

from resx.errors import ResxError
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.machine import usable_cores
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.serving.client.address import Address, parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import LOOPBACK
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState, now_s, running_server
from resx.serving.supervisor.detaching import serve_detached, stop

CONFIGURATION = Path(__file__).parents[1] / "deploy/proxy/haproxy.cfg"
RETRIES, CLIENTS_PER_PROTOCOL = 8, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One request and how it ended."""

    due_s: float
    ended_s: float
    version: int
    """That the answer names; 0 if there was none."""
    times_again: int
    """How often the client sent it again."""
    problem: str
    """Why it failed, or how its answer was wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """A running HAProxy."""

    http: Address
    grpc: Address
    admin: Path

    def statistics(self, server: str, field: str) -> list[str]:
        """Return a field of HAProxy's statistics of a server in each back end."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.admin))
            connection.sendall(b"show stat\n")
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        names, *rows = [line.split(",") for line in text.strip().removeprefix("# ").splitlines()]
        found = [dict(zip(names, row, strict=False)) for row in rows]
        return [row[field] for row in found if row["pxname"].startswith("triton_") and row["svname"] == server]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """Servers that were started together, and what they must answer."""

    name: str
    repositories: tuple[Repository, ...]
    states: list[ServerState]
    images: npt.NDArray[np.uint8]
    """[1, 3, H, W]."""
    expected: dict[int, npt.NDArray[np.float32]]
    """The logits, by version."""

    @property
    def url(self) -> str:
        """All their addresses, as `resx deploy` takes them."""
        return ",".join(f"{LOOPBACK}:{state.grpc_port}" for state in self.states)

    def deploy(self, version: int) -> list[str]:
        """Run `resx deploy` on all of them; return its lines.

        Raises:
            RuntimeError: it failed.
        """
        words = ["deploy", self.name, "--version", str(version), "--trial", "1", "--url", self.url, "-q"]
        command = [sys.executable, "-m", "resx", *words, "--repository", str(self.repositories[0].root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.splitlines()


class Asker(threading.Thread):
    """A client that sends at a fixed rate until told to stop."""

    def __init__(self, fleet: Fleet, address: Address, rate: float) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self._fleet, self._address, self._rate = fleet, address, rate
        self._halt = threading.Event()

    def run(self) -> None:
        """Ask until `finish`; what was due while a request waited is sent at once afterwards."""
        fleet, begun = self._fleet, now_s()
        with TritonClient(self._address, timeout_s=30, retries=RETRIES) as client:
            interface = client.interface(fleet.name)
            while not self._halt.is_set():
                due = begun + len(self.events) / self._rate
                time.sleep(max(0.0, due - now_s()))
                before, version, problem = client.num_sent_again, 0, ""
                try:
                    answer = client.infer(fleet.name, interface, fleet.images)
                    version = answer.version
                    if not np.allclose(answer.logits, fleet.expected[version], rtol=1e-3, atol=1e-4):
                        problem = f"wrong answer of version {version}"
                except ResxError as error:
                    problem = str(error)
                again, ended = client.num_sent_again - before, now_s()
                self.events.append(Event(due_s=due, ended_s=ended, version=version, times_again=again, problem=problem))

    def finish(self) -> None:
        """Stop after the request that is under way."""
        self._halt.set()
        self.join(90)
        assert not self.is_alive(), "a request was neither answered nor refused within 90 s"


@contextlib.contextmanager
def served(repositories: Sequence[Repository], name: str, images: npt.NDArray[np.uint8]) -> Iterator[Fleet]:
    """Serve each repository by a server of its own; all load from the first one, which has the versions."""
    source = repositories[0]
    files = {version: source.version_folder(name, version) / "model.onnx" for version in source.versions(name)}
    expected = {version: OnnxRuntimeModel(file)(images) for version, file in files.items()}
    fleet = Fleet(name=name, repositories=tuple(repositories), states=[], images=images, expected=expected)
    try:
        for repository in repositories:
            repository.root.mkdir(exist_ok=True)
            fleet.states.append(serve_detached(repository, FREE, ["--load-none"]))
        yield fleet
    finally:
        for repository in repositories:
            if running_server(repository):
                stop(repository)


@contextlib.contextmanager
def proxied(fleet: Fleet, folder: Path) -> Iterator[Proxy]:
    """Run HAProxy in front of the servers, with the configuration of deploy/proxy."""
    program = debian.program("haproxy", "usr/sbin/haproxy")
    environment = debian.environment(program)
    ports = Ports(http=0, grpc=0, metrics=0).resolved()
    file, admin = folder / "haproxy.cfg", folder / "admin.sock"
    file.write_text(configuration(fleet.name, fleet.states, ports, admin))
    subprocess.run([str(program), "-c", "-f", str(file)], env=environment, check=True, capture_output=True)
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([str(program), "-f", str(file)], stdout=log, stderr=log, env=environment)
    http, grpc = (f"{LOOPBACK}:{port}" for port in (ports.http, ports.grpc))
    proxy = Proxy(http=parse_address(http, "http"), grpc=parse_address(grpc, "grpc"), admin=admin)
    try:
        for address in (proxy.http, proxy.grpc):
            with TritonClient(address) as client:
                wait_until(lambda client=client: process.poll() is not None or client.is_live(), "HAProxy listens")
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield proxy
    finally:
        process.terminate()
        process.wait(20)


def configuration(name: str, states: Sequence[ServerState], ports: Ports, admin: Path) -> str:
    """Return deploy/proxy/haproxy.cfg for these servers and ports."""
    changes = {
        "/v2/models/resnet50/ready": f"/v2/models/{name}/ready",
        "bind 127.0.0.1:8080": f"bind {LOOPBACK}:{ports.http}",
        "bind 127.0.0.1:8081": f"bind {LOOPBACK}:{ports.grpc}",
        "stats socket /run/resx-haproxy/admin.sock": f"stats socket {admin}",
    }
    text = CONFIGURATION.read_text()
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    http = "".join(f"    server s{n} {LOOPBACK}:{state.http_port}\n" for n, state in enumerate(states))
    grpc = "".join(
        f"    server s{n} {LOOPBACK}:{state.grpc_port} proto h2 check-proto h1 port {state.http_port}\n"
        for n, state in enumerate(states)
    )
    text, found = re.subn(r"(?m)(?<=^backend triton_http\n)(    server .*\n)+", http, text)
    text, found_too = re.subn(r"(?m)(?<=^backend triton_grpc\n)(    server .*\n)+", grpc, text)
    assert (found, found_too) == (1, 1)
    return text


@contextlib.contextmanager
def load(fleet: Fleet, proxy: Proxy, rate: float) -> Iterator[list[Asker]]:
    """Ask through the proxy over both protocols, `rate` times a second in all, for as long as the block lasts."""
    addresses = [proxy.http, proxy.grpc] * CLIENTS_PER_PROTOCOL
    askers = [Asker(fleet, address, rate / len(addresses)) for address in addresses]
    for asker in askers:
        asker.start()
    try:
        wait_until(lambda: all(len(asker.events) > 5 for asker in askers), "every client was answered")
        yield askers
    finally:
        for asker in askers:
            asker.finish()


def kill(state: ServerState) -> None:
    """End a server and its supervisor at once, as if their machine were gone; nothing brings it back."""
    os.kill(state.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.server_pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(state.pid, 0)


def bring_back(fleet: Fleet, position: int) -> None:
    """Start a killed server again, on its ports; it serves what it served."""
    state = fleet.states[position]
    ports = Ports(http=state.http_port, grpc=state.grpc_port, metrics=state.metrics_port)
    fleet.states[position] = serve_detached(fleet.repositories[position], ports)


def kill_under_load(fleet: Fleet, proxy: Proxy, rate: float, seconds: float) -> list[str]:
    """Kill the last server and start it again; print the phases and return the bars that were missed."""
    last = len(fleet.states) - 1
    with load(fleet, proxy, rate) as askers:
        begun = now_s()
        time.sleep(seconds)
        killed = now_s()
        kill(fleet.states[last])
        wait_until(lambda: all(word.startswith("DOWN") for word in proxy.statistics(f"s{last}", "status")), "it is out")
        out = now_s()
        time.sleep(max(0.0, killed + seconds - now_s()))
        during = now_s()
        time.sleep(seconds)
        back = now_s()
        bring_back(fleet, last)
        wait_until(lambda: all(word == "UP" for word in proxy.statistics(f"s{last}", "status")), "it is back", 120)
        back_s = now_s() - back
        time.sleep(seconds)
    print(f"\nkill of one of {last + 1}: out of the proxy after {out - killed:.2f} s, back in it after {back_s:.1f} s")
    marks = [("before", begun), (f"{seconds:g} s from the kill", killed), ("without it", during), ("back", back)]
    events = show(askers, marks)
    same, other = (
        sum(int(number) for n in range(last + 1) for number in proxy.statistics(f"s{n}", field))
        for field in ("wretr", "wredis")
    )
    again = sum(event.times_again > 0 for event in events)
    print(f"sent again: by the proxy {other} to another server, {same} to the same; by clients {again}")
    return problems(events)


def upgrade_under_load(fleet: Fleet, proxy: Proxy, rate: float, seconds: float, versions: tuple[int, int]) -> list[str]:
    """Deploy to all in turn; print the phases and return the bars that were missed."""
    with load(fleet, proxy, rate) as askers:
        begun = now_s()
        time.sleep(seconds)
        started = now_s()
        lines = fleet.deploy(versions[1])
        ended = now_s()
        time.sleep(seconds)
    print(f"\nrolling upgrade of {len(fleet.states)} servers: {ended - started:.1f} s")
    print("\n".join(lines))
    events = show(askers, [("before", begun), ("during", started), ("after", ended)])
    print(f"sent again: {sum(event.times_again > 0 for event in events)} requests by clients")
    seen = Counter(event.version for event in events if event.version)
    print("answers: " + ", ".join(f"{seen[version]} of version {version}" for version in versions))
    missed = problems(events)
    missed += [f"no answer of version {version}" for version in versions if not seen[version]]
    late = sum(event.version == versions[0] and event.due_s > ended for event in events)
    return [*missed, f"{late} answers of version {versions[0]} afterwards"] if late else missed


def show(askers: Sequence[Asker], marks: Sequence[tuple[str, float]]) -> list[Event]:
    """Print a row for each phase, which begins at its mark; return all events."""
    events = [event for asker in askers for event in asker.events]
    print(f"{'phase':<20}{'requests':>9}{'failed':>8}{'again':>7}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    ends = [begin for _, begin in marks[1:]] + [float("inf")]
    for (phase, begin), end in zip(marks, ends, strict=True):
        here = [event for event in events if begin <= event.due_s < end]
        ms = np.array([1e3 * (event.ended_s - event.due_s) for event in here])
        failed, again = sum(bool(event.problem) for event in here), sum(event.times_again > 0 for event in here)
        p50, p99, most = np.percentile(ms, 50), np.percentile(ms, 99), ms.max()
        print(f"{phase:<20}{len(here):>9}{failed:>8}{again:>7}{p50:>9.1f}{p99:>9.1f}{most:>9.1f}", flush=True)
    return events


def problems(events: Sequence[Event]) -> list[str]:
    """Return in words how many requests failed and why."""
    found = Counter(event.problem for event in events if event.problem)
    return [f"{count} of {len(events)} requests failed: {reason}" for reason, count in found.items()]


def main() -> int:
    """Start, break, upgrade, stop; say whether the bars hold."""
    parser = argparse.ArgumentParser(description="A fleet on one machine: a kill and a rolling upgrade under load.")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second, all clients together")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each phase")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and proxy are stopped then too
    with tempfile.TemporaryDirectory(prefix="resx-fleet-") as folder:
        os.environ["RESX_STATE"] = f"{folder}/state"
        repositories = [Repository(Path(folder) / f"server{n}") for n in range(options.servers)]
        for seed in (0, 1):
            source = load_source(options.model, weights="none", seed=seed)
            serving = ServingOptions(threads=1)
            export_into(repositories[0], source, ExportOptions(), serving, name=options.model, command="make fleet")
        size = repositories[0].card(options.model).signature.input_dims
        images = np.random.default_rng(0).integers(0, 256, (1, *size), dtype=np.uint8)
        try:
            with served(repositories, options.model, images) as fleet:
                print(
                    f"{options.model} on {options.servers} servers of one thread, {usable_cores()} cores for all of it"
                )
                print("\n".join(fleet.deploy(1)), flush=True)
                with proxied(fleet, Path(folder)) as proxy:
                    missed = kill_under_load(fleet, proxy, options.rate, options.seconds)
                    missed += upgrade_under_load(fleet, proxy, options.rate, options.seconds, (1, 2))
        except pytest.skip.Exception as reason:
            print(reason)
            return 4
    print("\nall bars hold" if not missed else "".join(f"\nMISSED: {bar}" for bar in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
