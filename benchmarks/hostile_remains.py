"""What the embedded server's limits leave open to programs of this machine, and the memory that each costs.

    python -m benchmarks.hostile_remains [--calls 100000]

A body of JSON as large as the limit allows; half-sent bodies on many connections; gRPC calls whose connection goes
before their answer comes. The figures are those of docs/security.md, "Sizes".
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fault_clients import published, serve
from benchmarks.fault_requests import PATH
from benchmarks.hostile_kinds import Connection, leave_calls
from tests.support.running_triton import current

from resx.serving.client.loopback import LOOPBACK
from resx.serving.embedded.patches.request_limits import REQUEST_BYTES
from resx.serving.running.server_state import ServerState

_CALLS_A_CONNECTION = 1000


def main() -> None:
    """Measure each against a server of its own, and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000, help="gRPC calls to abandon")
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory(prefix="resx-remains-state-") as folder:
        os.environ["RESX_STATE"] = folder
        with published() as (repository, _):
            state = serve(repository)
            send_json(state)
            print(f"JSON of {REQUEST_BYTES / 2**20:.0f} MiB: {_mib(state, 'VmHWM'):.0f} MiB at most while it is parsed")
        with published() as (repository, _):
            state = serve(repository)
            before = _mib(state, "VmRSS")
            with half_sent_bodies(state, 10):
                time.sleep(2)
                held = _mib(state, "VmRSS") - before
            print(f"10 bodies of {REQUEST_BYTES / 2**20:.0f} MiB, never ended: {held:.0f} MiB held")
        with published() as (repository, _):
            state = serve(repository)
            before = _mib(state, "VmRSS")
            abandon_calls(state, calls)
            time.sleep(20)  # what can still be freed is
            kept_kib = 1024 * (_mib(state, "VmRSS") - before) / calls
            restarted = "" if current(repository).server_pid == state.server_pid else "; the server was started again"
            print(f"{calls} abandoned gRPC calls: {kept_kib:.0f} KiB kept for each{restarted}")


def send_json(state: ServerState) -> None:
    """Send numbers up to the limit's last byte, and wait for the refusal."""
    connection = http.client.HTTPConnection(LOOPBACK, state.http_port, timeout=120)
    numbers = b"0," * (REQUEST_BYTES // 2 - 1000) + b"0"
    body = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,3,16,16],"data":[' + numbers + b"]}]}"
    connection.request("POST", PATH, body)
    connection.getresponse().read()


@contextlib.contextmanager
def half_sent_bodies(state: ServerState, number: int) -> Iterator[None]:
    """Hold connections whose body lacks its last byte."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            connection = stack.enter_context(socket.create_connection((LOOPBACK, state.http_port), timeout=60))
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {REQUEST_BYTES - 999}\r\n\r\n"
            connection.sendall(head.encode() + bytes(REQUEST_BYTES - 1000))
        yield


def abandon_calls(state: ServerState, number: int) -> None:
    """Begin calls and close their connections before they are answered."""
    for _ in range(number // _CALLS_A_CONNECTION):
        with Connection(state.grpc_port) as connection:
            leave_calls(connection, _CALLS_A_CONNECTION)


def _mib(state: ServerState, field: str) -> float:
    for line in Path(f"/proc/{state.server_pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


if __name__ == "__main__":
    main()
