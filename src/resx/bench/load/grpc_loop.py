"""Sends gRPC requests from one thread with grpc.aio, on one channel.

The messages are bytes that were made before: (de)serialising is no part of the load. What is left is gRPC's own
work, some times that of an HTTP request (`resx bench` prints what a request cost the client).
"""

from __future__ import annotations

import asyncio
import selectors
import time
from multiprocessing.connection import Connection as Pipe
from typing import TYPE_CHECKING, Any

from resx.bench.load.load_task import DRAIN_S, PAUSE_S, PROGRESS_S, LoadTask, due_times
from resx.bench.load.request_times import NO_ANSWER, Recorder
from resx.bench.load.wire import GRPC_METHOD
from resx.serving.client.loopback import grpc_options

if TYPE_CHECKING:
    import grpc

_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.per_message_decompression", 0),  # what is unpacked has no bound; no Triton compresses unasked
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


def run_grpc(task: LoadTask, recorder: Recorder, pipe: Pipe) -> None:
    """Send until the pipe says stop, then wait for what is in flight."""
    # select's timeout has microseconds where epoll's has milliseconds: requests would leave late.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_GrpcLoop(task, recorder, pipe).run())
    finally:
        loop.close()


class _GrpcLoop:
    def __init__(self, task: LoadTask, recorder: Recorder, pipe: Pipe) -> None:
        self._task, self._recorder, self._pipe = task, recorder, pipe
        self._stopped = asyncio.Event()
        self._in_flight: dict[int, tuple[int, int]] = {}
        """Due and sent time of each request, by a number."""
        self._number = self._next_payload = 0
        self._metadata = task.headers or None

    async def run(self) -> None:
        import grpc

        target = self._task.host_port
        most = ("grpc.max_receive_message_length", self._task.max_answer_bytes)
        options = [*_CHANNEL, *grpc_options(target), most]
        if self._task.tls:
            channel = grpc.aio.secure_channel(target, self._task.tls.grpc_credentials(), options=options)
        else:
            channel = grpc.aio.insecure_channel(target, options=options)
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._told_to_stop)
        async with channel:
            call = channel.unary_unary(GRPC_METHOD)
            teller = asyncio.create_task(self._tell())
            sending = self._open(call) if self._task.rate_per_s else self._closed(call)
            running = asyncio.create_task(sending)
            await self._stopped.wait()
            await asyncio.wait([running], timeout=DRAIN_S)
            running.cancel()
            teller.cancel()
            await asyncio.gather(running, teller, return_exceptions=True)
        now = time.monotonic_ns()
        for due, sent in self._in_flight.values():
            self._recorder.failed(due, sent or now, NO_ANSWER)

    def _told_to_stop(self) -> None:
        self._pipe.recv()
        asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        self._stopped.set()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            self._pipe.send(self._recorder.progress(len(self._in_flight)))

    async def _closed(self, call: grpc.aio.UnaryUnaryMultiCallable[Any, Any]) -> None:
        async def worker() -> None:
            while not self._stopped.is_set():
                if not await self._ask(call, time.monotonic_ns()):
                    await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(worker() for _ in range(self._task.concurrency)))

    async def _open(self, call: grpc.aio.UnaryUnaryMultiCallable[Any, Any]) -> None:
        asked: set[asyncio.Task[bool]] = set()
        for due in due_times(self._task, time.monotonic_ns()):
            left = (due - time.monotonic_ns()) / 1e9
            # Even where it is behind, the loop must get to reading answers.
            await asyncio.sleep(max(left, 0))
            if self._stopped.is_set():
                break
            task = asyncio.create_task(self._ask(call, due))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked)

    async def _ask(self, call: grpc.aio.UnaryUnaryMultiCallable[Any, Any], due_ns: int) -> bool:
        import grpc

        payload = self._next_payload
        self._next_payload = (payload + 1) % len(self._task.requests)
        self._number += 1
        number, sent = self._number, time.monotonic_ns()
        self._in_flight[number] = (due_ns, sent)
        try:
            answer = await call(self._task.requests[payload], timeout=self._task.timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            self._recorder.failed(due_ns, sent, f"{error.code().name}: {error.details()}")
            return False
        else:
            self._recorder.answered(due_ns, sent, payload, answer)
            return True
        finally:
            if not self._is_cancelled():
                self._in_flight.pop(number, None)

    @staticmethod
    def _is_cancelled() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
