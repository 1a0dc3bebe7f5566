"""Hostile requests over http and gRPC, of every kind that was ever seen to hurt a server, beside healthy ones.

    make hostile
    python -m benchmarks.hostile [--requests 100000] [--seed 0] [--native]

A tiny network is served by the embedded Triton. One client for each protocol asks it all the time, compares every
answer and gives up at the first error, while other threads send what hostile_kinds.py makes and 400 connections
lie idle or half a request long. The table says how each kind's requests ended.

Bars: no healthy request lost or answered wrong, the same server process, at most 2 GiB of memory, and nothing that a
web page sends is answered. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fault_clients import SERVED_WITH, Asker, load, published, row_without_loss, serve
from benchmarks.hostile_kinds import GRPC_KINDS, HTTP_KINDS, Connection, Kind
from tests.support.running_triton import current

from resx.serving.client.loopback import LOOPBACK
from resx.serving.running.server_state import ServerState

MEMORY_BYTES = 2 * 2**30
_SENDERS = 4
_BEGINNINGS = (
    b"",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: local",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n[",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a load came to."""

    counted: dict[str, Counter[str]]
    """How often each kind's requests ended in each way."""
    healthy: int
    missed: tuple[str, ...]
    """Bars that did not hold."""
    peak_bytes: int
    """The most memory that the server had."""

    @property
    def sent(self) -> int:
        """The hostile requests."""
        return sum(counter.total() for counter in self.counted.values())


class _Sender(threading.Thread):
    """Sends a number of requests, of kinds drawn by their weights."""

    def __init__(self, kinds: Sequence[Kind], port: int, seed: int, number: int) -> None:
        super().__init__(daemon=True)
        self.counted: dict[str, Counter[str]] = {kind.name: Counter() for kind in kinds}
        self._kinds, self._port, self._number = kinds, port, number
        self._chance = random.Random(seed)

    def run(self) -> None:
        """Send each kind once, then the others as they are drawn."""
        weights = [kind.weight for kind in self._kinds]
        rest = self._chance.choices(self._kinds, weights, k=max(0, self._number - len(self._kinds)))
        with Connection(self._port) as connection:
            for kind in [*self._kinds, *rest][: self._number]:
                self.counted[kind.name].update([kind.send(connection, self._chance)])


@contextlib.contextmanager
def idle_connections(port: int, number: int) -> Iterator[None]:
    """Keep connections open that say nothing, or half of something."""
    with contextlib.ExitStack() as stack:
        for index in range(number):
            connection = stack.enter_context(socket.create_connection((LOOPBACK, port), timeout=10))
            connection.sendall(_BEGINNINGS[index % len(_BEGINNINGS)])
        yield


def hostile_load(requests: int, *, seed: int, num_idle: int = 400) -> Outcome:
    """Send so many hostile requests beside healthy ones to a server of their own."""
    with published() as (repository, questions):
        state = serve(repository)
        share, rest = divmod(requests, _SENDERS)
        shares = [share + (index < rest) for index in range(_SENDERS)]
        senders = [
            _Sender(GRPC_KINDS, state.grpc_port, seed, number)
            if index == 0
            else _Sender(HTTP_KINDS, state.http_port, seed + index, number)
            for index, number in enumerate(shares)
        ]
        with idle_connections(state.http_port, num_idle), load(state, questions, (0,)) as askers:
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            time.sleep(1)  # what was sent last is answered, or hurts, now
        after = current(repository)
        peak = _peak_bytes(after)
    counted: dict[str, Counter[str]] = {}
    for sender in senders:
        for name, counter in sender.counted.items():
            counted[name] = counted.get(name, Counter()) + counter
    return Outcome(
        counted=counted,
        healthy=sum(len(asker.events) for asker in askers),
        peak_bytes=peak,
        missed=_missed(counted, askers, state, after, peak),
    )


def _missed(
    counted: dict[str, Counter[str]], askers: Sequence[Asker], before: ServerState, after: ServerState, peak: int
) -> tuple[str, ...]:
    bars = {
        f"the server had to be brought back: {after.last_recovery}": after.server_pid != before.server_pid,
        f"the server took {peak / 2**20:.0f} MiB": peak > MEMORY_BYTES,
    }
    for kind in (*HTTP_KINDS, *GRPC_KINDS):
        if answered := sum(counted.get(kind.name, Counter())[outcome] for outcome in kind.never):
            bars[f"{answered} x {kind.name}: {', '.join(sorted(kind.never))}"] = True
    return row_without_loss("", 1, askers, [], {what for what, true in bars.items() if true}).missed


def _peak_bytes(state: ServerState) -> int:
    """Return the most memory that the server's process had since it was started."""
    (line,) = [
        line for line in Path(f"/proc/{state.server_pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def main() -> int:
    """Send, print the table, and say whether all bars hold."""
    parser = argparse.ArgumentParser(description="Send hostile requests beside healthy ones and count what is lost.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--native", action="store_true", help="to a server that computes in its own process")
    options = parser.parse_args()
    if options.native:
        SERVED_WITH.append("--native")
    with tempfile.TemporaryDirectory(prefix="resx-hostile-state-") as folder:
        os.environ["RESX_STATE"] = folder
        outcome = hostile_load(options.requests, seed=options.seed)
    for name, counter in sorted(outcome.counted.items()):
        ends = ", ".join(f"{number} x {end}" for end, number in counter.most_common())
        print(f"{name:<36}{counter.total():>8}  {ends}")
    print(
        f"{outcome.sent} hostile requests, {outcome.healthy} healthy ones, {outcome.peak_bytes / 2**20:.0f} MiB at most"
    )
    print("".join(f"MISSED: {bar}\n" for bar in outcome.missed) or "all bars hold")
    return 1 if outcome.missed else 0


if __name__ == "__main__":
    sys.exit(main())
