"""A server that answers at once, whatever it is asked: against it a generator shows what it can do itself.

A run is worth something only if the generator could have sent far more than it did. So each protocol's generator is
run for a moment against a process that reads a request, computes nothing, and sends an answer of the size that the
model's has. The ceiling is what the generator's processor time per request there allows.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from typing import Any

from resx.bench.load.fresh_processes import hide_main
from resx.bench.load.generator import Generators
from resx.bench.load.load_task import LoadTask
from resx.bench.load.wire import GRPC_METHOD, content_length
from resx.bench.results.samples import merge
from resx.errors import ResxError
from resx.streams import make_readable

_ENVELOPE_BYTES = 160
"""Of JSON around an answer's logits, or of a message of gRPC."""


def ceiling_per_s(task: LoadTask, num_classes: int, batch_size: int, *, duration_s: float = 0.6) -> float:
    """Return how many such requests a second one generator process can make at most, from its CPU time per request.

    Args:
        task: one process's part; it is sent to a server of this machine instead, in the clear.
        num_classes: of an answer.
        batch_size: rows of an answer.
        duration_s: how long to measure, after half as long to warm up.

    Raises:
        ResxError: the null server or the generator did not start.
    """
    answer = b"\x00" * (_ENVELOPE_BYTES + 4 * num_classes * batch_size)
    with null_server(task.protocol, answer) as port:
        concurrency = max(1, min(task.concurrency, 8)) if task.concurrency else 8
        local = replace(
            task, host_port=f"127.0.0.1:{port}", tls=None, concurrency=concurrency, rate_per_s=0.0, timeout_s=5.0
        )
        with Generators([local]) as generators:
            generators.wait_until_ready()
            _wait(generators, duration_s / 2)
            opened, cpu = time.monotonic_ns(), generators.cpu_s()
            _wait(generators, duration_s)
            closed, cpu_after = time.monotonic_ns(), generators.cpu_s()
            samples = merge(generators.stop()).answered
    done = int(((samples.done_ns >= opened) & (samples.done_ns < closed)).sum())
    if not done or cpu_after <= cpu:
        raise ResxError("the load generator's own limit could not be measured: it got no answer from a null server")
    return done / (cpu_after - cpu)


@contextmanager
def null_server(protocol: str, answer: bytes) -> Iterator[int]:
    """Run a null server in a process of its own and give its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(protocol, answer, theirs), daemon=True, name="resx-null")
    with hide_main():
        process.start()
    try:
        if not ours.poll(60):
            raise ResxError("the null server did not start; check the free memory")
        yield int(ours.recv())
    finally:
        process.kill()
        process.join(5)


def _serve(protocol: str, answer: bytes, pipe: Pipe) -> None:
    make_readable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if protocol == "grpc":
        _serve_grpc(answer, pipe)
    else:
        asyncio.run(_serve_http(answer, pipe))


async def _serve_http(answer: bytes, pipe: Pipe) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(answer)}\r\n\r\n"
    whole = head.encode() + answer
    server = await asyncio.get_running_loop().create_server(lambda: _NullHttp(whole), "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _NullHttp(asyncio.Protocol):
    """Counts a request's bytes and answers when all are there."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._head = b""
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._missing = end + 4 + (content_length(self._head[:end]) or 0)
            data, self._head = self._head, b""
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing = 0
            self._transport.write(self._answer)


def _serve_grpc(answer: bytes, pipe: Pipe) -> None:
    import grpc

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types here
        def service(self, handler_call_details: Any) -> Any:
            assert handler_call_details.method == GRPC_METHOD
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)

    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=2),
        handlers=(Everything(),),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


def _wait(generators: Generators, seconds: float) -> None:
    until = time.monotonic_ns() + int(seconds * 1e9)
    while time.monotonic_ns() < until:
        generators.watch(until)
