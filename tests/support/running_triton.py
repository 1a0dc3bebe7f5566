"""A real Triton that answers, and what tests ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from resx.repository.versions import Repository
from resx.serving.client.address import Protocol
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState, running_server


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTriton:
    """The embedded server and the repository that it serves."""

    repository: Repository
    backend: str = "onnxruntime"
    """That computes what a test puts there without naming another."""

    @property
    def state(self) -> ServerState:
        """What is known of it now: on a busy machine its supervisor may have had to start it anew."""
        for _ in range(3000):
            state = running_server(self.repository)
            if state is not None and state.phase == "serving" and not state.recovering:
                return state
            time.sleep(0.1)
        raise TimeoutError(f"the server does not serve again: {state}")

    def client(self, protocol: Protocol = "grpc") -> TritonClient:
        return TritonClient(self.state.address(protocol), timeout_s=30)

    def url(self, protocol: Protocol = "grpc") -> str:
        return str(self.state.address(protocol))


def stubs_of(state: ServerState, name: str) -> list[int]:
    return [
        child.pid
        for child in psutil.Process(state.server_pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and any(f"/{name}/" in word for word in child.cmdline())
    ]


MODEL, FREE = "tiny", Ports(http=0, grpc=0, metrics=0)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def current(repository: Repository) -> ServerState:
    """Return the running server's state.

    Raises:
        RuntimeError: none runs, though one should.
    """
    state = running_server(repository)
    if state is None:
        raise RuntimeError("the supervisor is gone")
    return state


def stub_of(state: ServerState) -> int:
    """Return the process id of the model's youngest stub; that of a version that was replaced may still be ending."""
    stubs = [
        child
        for child in psutil.Process(state.server_pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and any(f"/{MODEL}/" in word for word in child.cmdline())
    ]
    if not stubs:
        raise RuntimeError(f"{MODEL} has no stub")
    return max(stubs, key=lambda stub: stub.create_time()).pid
