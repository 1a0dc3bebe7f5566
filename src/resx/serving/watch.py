"""Is the server well? Three things are watched, as Triton 2.51 says READY whatever became of its stubs.

    the process     ended: a fault
    the stubs       one that ended without Triton waiting for it: a fault of its model (a look at /proc)
    the answers     each deployed version is asked its canary: no answer, or another than its card's, is a fault

An idle model of a few milliseconds is asked every second, a slow one so rarely that it costs 2 % of a core. A
canary waits in the queue like every request, so one that is late, or that a full queue refuses, is a fault only if
the model finished nothing else meanwhile: overload is no fault. A version that is not loaded is none either:
somebody unloaded it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from resx.errors import ParityError, ResxError, ServerBusy, UsageError
from resx.export import card as cards
from resx.export.card import Card
from resx.serving.client import (
    Address,
    ConnectionLost,
    Interface,
    ModelProcessLost,
    NoAnswerInTime,
    NotLoaded,
    TritonClient,
)
from resx.serving.repository import Repository
from resx.serving.triton_process import Stub, TritonProcess, is_child, is_zombie

_COST = 0.02
_SCAN_S = 0.5
_ZOMBIE_S = 0.4
"""Triton may take a moment to wait for a stub that it ended itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something is wrong with the server."""

    reason: str
    model: str | None = None
    """None: it is the whole server's."""


class StubWatch:
    """Finds the stubs of one server process that crashed."""

    def __init__(self, process: TritonProcess) -> None:
        self._process = process
        self._known: dict[int, Stub] = {}
        self._died_at: dict[int, float] = {}
        self._next_scan = 0.0

    def scan(self) -> None:
        """Learn which stubs there are, so that one that dies from now on is known.

        Those that were known stay so while they are there, dead or alive: one that dies while /proc is walked is no
        longer named by its command line, and would be forgotten before anybody saw that it is dead.
        """
        there = {pid: stub for pid, stub in self._known.items() if is_child(pid, self._process.pid)}
        self._known, self._next_scan = there | self._process.stubs(), time.monotonic() + _SCAN_S

    def fault(self) -> Fault | None:
        """Return the fault of a stub that crashed; each is told once."""
        now = time.monotonic()
        if now >= self._next_scan:
            self.scan()
        dead = [pid for pid in self._known if is_zombie(pid, self._process.pid)]
        self._died_at = {pid: self._died_at.get(pid, now) for pid in dead}
        for pid in dead:
            if now - self._died_at[pid] >= _ZOMBIE_S:
                stub = self._known.pop(pid)
                return Fault(reason=f"a python stub of {stub.model} version {stub.version} died", model=stub.model)
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """A version's canary of one image."""

    card: Card
    interface: Interface


class CanaryWatch(threading.Thread):
    """Asks every deployed version its canary, one after the other, in a thread of its own until stopped."""

    def __init__(
        self,
        address: Address,
        repository: Repository,
        deployed: Callable[[], Mapping[str, tuple[int, ...]]],
        *,
        interval_s: float,
        timeout_s: float,
    ) -> None:
        """Prepare; `timeout_s` is how long a model may finish nothing while it is asked."""
        super().__init__(daemon=True, name="canary")
        self.fault: Fault | None = None
        self._address, self._repository, self._deployed = address, repository, deployed
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._halt = threading.Event()
        self._due: dict[tuple[str, int], float] = {}
        self._expected: dict[tuple[str, int], _Expected] = {}

    def stop(self) -> None:
        """Ask no more; does not wait for an answer that is under way."""
        self._halt.set()

    def run(self) -> None:
        """Ask until stopped or until a fault is found."""
        client = TritonClient(self._address, timeout_s=self._timeout_s)
        try:
            while self.fault is None and not self._halt.wait(min(0.25, self._interval_s)):
                for name, versions in self._deployed().items():
                    for version in versions:
                        self.fault = self.fault or self._ask_if_due(client, name, version)
        finally:
            client.close()

    def _ask_if_due(self, client: TritonClient, name: str, version: int) -> Fault | None:
        if self._halt.is_set() or time.monotonic() < self._due.get((name, version), 0.0):
            return None
        begun = time.monotonic()
        fault = self._ask(client, name, version)
        if fault and version not in self._deployed().get(name, ()):
            return None  # undeployed, or another version's turn, while it was asked
        took_s = time.monotonic() - begun
        self._due[name, version] = time.monotonic() + max(self._interval_s, took_s / _COST)
        return fault

    def _ask(self, client: TritonClient, name: str, version: int) -> Fault | None:
        try:
            before = _finished(client, name, version)
        except NotLoaded:
            return None
        except ResxError as error:
            return Fault(reason=f"the server tells nothing of {name}: {error}")
        try:
            expected = self._expect(client, name, version)
            if expected is not None:
                ask_canary(client, name, version, expected.card, expected.interface, num_images=1)
        except NotLoaded:
            return None
        except NoAnswerInTime as error:
            return self._late(client, name, version, before, error)
        except ServerBusy as error:
            return self._refused(client, name, version, before, error)
        except ConnectionLost as error:
            return Fault(reason=f"the server closed the canary's connection: {error}")
        except ModelProcessLost as error:
            return Fault(reason=f"{name} version {version}: {error}", model=name)
        except ResxError as error:
            return Fault(reason=str(error), model=name)
        return None

    def _late(self, client: TritonClient, name: str, version: int, before: int, error: ResxError) -> Fault | None:
        try:
            moved = _finished(client, name, version) > before
        except ResxError:
            moved = False
        return None if moved else Fault(reason=f"{name} version {version} finished nothing: {error}")

    def _refused(self, client: TritonClient, name: str, version: int, before: int, error: ResxError) -> Fault | None:
        """Say whether a model whose queue is full still empties it."""
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline and not self._halt.wait(0.2):
            with contextlib.suppress(ResxError):
                if _finished(client, name, version) > before:
                    return None
        return None if self._halt.is_set() else self._late(client, name, version, before, error)

    def _expect(self, client: TritonClient, name: str, version: int) -> _Expected | None:
        """Return the version's canary; None for a model without a card, which is watched by its stubs alone."""
        key = (name, version)
        if key not in self._expected:
            try:
                card = self._repository.card(name, version)
            except UsageError:
                return None
            self._expected[key] = _Expected(card=card, interface=client.interface(name, version))
        return self._expected[key]


def ask_canary(
    client: TritonClient, name: str, version: int, card: Card, interface: Interface, *, num_images: int
) -> float:
    """Send a version its first `num_images` canary images; return how far the answer is from the card's.

    A file of a fixed batch is sent all of them.

    Raises:
        ParityError: it is too far, or not finite.
        ResxError: there was no answer.
    """
    num_images = card.signature.batch or num_images
    images = cards.canary_input(card.signature, card.canary.num_images)[:num_images]
    recorded = card.canary.model_copy(update={"logits": card.canary.logits[:num_images], "num_images": num_images})
    answer = client.infer(name, interface, images, version)
    difference = cards.canary_difference(recorded, answer.logits)
    if not difference <= card.canary.tolerance:
        raise ParityError(
            f"{name} version {version}: answers its canary wrongly, by {difference:.3g} of its scale, "
            f"allowed {card.canary.tolerance:g}"
        )
    return difference


def _finished(client: TritonClient, name: str, version: int) -> int:
    """Return how many requests a version has answered; those that a full queue refused count as failures to Triton."""
    return sum(
        int(entry["inference_stats"].get("success", {}).get("count", 0)) for entry in client.statistics(name, version)
    )
