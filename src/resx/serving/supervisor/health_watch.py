"""Is the server well? Three things are watched, as Triton 2.51 says READY whatever became of its stubs.

    the process     ended: the server's fault
    the stubs       one that ended without Triton waiting for it: a fault of its model (a look at /proc)
    the answers     each deployed version is asked its canary: an error or another answer than its card's is a
                    fault of that model, and so is none in time; of the server only if that answers nothing else

An idle model of a few milliseconds is asked every second, a slow one so rarely that it costs 2 % of a core, and at once
if requests failed while none was computed. A canary waits in the queue like every request, so one that is late, or that
a full queue refuses, is a fault only if the model finished nothing else meanwhile: overload is no fault. A version that
is not loaded is none either: somebody unloaded it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resx.card.card import Card
from resx.errors import ResxError, ServerBusy, UsageError
from resx.repository.versions import Repository
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import ConnectionLost, ModelProcessLost, NoAnswerInTime, NotLoaded
from resx.serving.deployment.file_checks import say_which
from resx.serving.deployment.self_test import num_requests, run_self_test
from resx.serving.embedded.triton_process import Stub, TritonProcess, is_child, is_zombie
from resx.serving.running.self_test_ledger import SelfTestLedger
from resx.serving.supervisor.decisions import Kind

_COST = 0.02
_SCAN_S = 0.5
_ZOMBIE_S = 0.4
"""Triton may take a moment to wait for a stub that it ended itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something is wrong with the server, or with one model."""

    reason: str
    model: str | None = None
    """None: it is the whole server's."""
    version: int | None = None
    """The version that it was seen at; None where it is not known."""
    kind: Kind = "died"
    since_s: float = field(default_factory=time.monotonic)
    """When it was first there, as far as is known."""


def fault_of(name: str, version: int, kind: Kind, error: ResxError, *, since_s: float) -> Fault:
    """Return the fault of a version that failed with this error."""
    return Fault(reason=say_which(name, version, error), model=name, version=version, kind=kind, since_s=since_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestCounts:
    """What became of requests; those that the response cache answered, successes to Triton too, are neither."""

    computed: int
    failed: int
    """Those that a full queue refused are among them."""

    def has_only_failed_since(self, before: RequestCounts) -> bool:
        """Say whether requests failed between two looks, and none was computed."""
        return self.failed > before.failed and self.computed == before.computed


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
                stub, since_s = self._known.pop(pid), self._died_at.pop(pid)
                return Fault(
                    reason=f"a python stub of {stub.model} version {stub.version} died",
                    model=stub.model,
                    version=stub.version,
                    since_s=since_s,
                )
        return None

    @property
    def alive(self) -> list[int]:
        """The stubs whose end nobody has seen yet."""
        return [pid for pid in self._known if pid not in self._died_at]

    @property
    def is_in_doubt(self) -> bool:
        """Whether one has ended that Triton may still wait for."""
        return bool(self._died_at)

    def forget(self, model: str) -> None:
        """Forget a model's stubs: they are ended on purpose."""
        self._known = {pid: stub for pid, stub in self._known.items() if stub.model != model}


class CanaryWatch(threading.Thread):
    """Asks every deployed version its canary, one after the other, in a thread of its own until stopped.

    A model's fault is told, and the others are asked on; the server's own ends the thread.
    """

    def __init__(
        self,
        address: Address,
        repository: Repository,
        deployed: Callable[[], Mapping[str, tuple[int, ...]]],
        *,
        ledger: SelfTestLedger,
        interval_s: float,
        timeout_s: float,
    ) -> None:
        """Prepare; `timeout_s` is how long a model may finish nothing while it is asked."""
        super().__init__(daemon=True, name="canary")
        self._faults: queue.SimpleQueue[Fault] = queue.SimpleQueue()
        self._address, self._repository, self._deployed = address, repository, deployed
        self._ledger, self._interval_s, self._timeout_s = ledger, interval_s, timeout_s
        self._halt = threading.Event()
        self._due: dict[tuple[str, int], float] = {}
        self._counts: dict[tuple[str, int], RequestCounts] = {}
        self._counted_s: dict[tuple[str, int], float] = {}
        self._cards: dict[tuple[str, int], Card] = {}

    def stop(self) -> None:
        """Ask no more; does not wait for an answer that is under way."""
        self._halt.set()

    def fault(self) -> Fault | None:
        """Return a fault that was found; each is told once."""
        try:
            return self._faults.get_nowait()
        except queue.Empty:
            return None

    def run(self) -> None:
        """Ask until stopped or until the server has a fault."""
        client = TritonClient(self._address, timeout_s=self._timeout_s)
        try:
            while not self._halt.wait(min(0.25, self._interval_s)):
                asked = [(name, version) for name, versions in self._deployed().items() for version in versions]
                self._cards = {key: self._cards[key] for key in asked if key in self._cards}
                self._ledger.keep_up(client, asked)
                for name, version in asked:
                    if fault := self._ask_if_due(client, name, version):
                        self._cards.pop((name, version), None)  # it may be another file when it is back
                        self._ledger.forget((name, version))
                        self._faults.put(fault)
                        if fault.model is None:
                            return
        finally:
            client.close()

    def _ask_if_due(self, client: TritonClient, name: str, version: int) -> Fault | None:
        if self._halt.is_set():
            return None
        if time.monotonic() < self._due.get((name, version), 0.0) and not self._only_fails(client, name, version):
            return None
        begun = time.monotonic()
        fault = self._ask(client, name, version, begun)
        if fault and version not in self._deployed().get(name, ()):
            return None  # undeployed, or another version's turn, while it was asked
        took_s = time.monotonic() - begun
        self._due[name, version] = time.monotonic() + max(self._interval_s, took_s / _COST)
        return fault

    def _only_fails(self, client: TritonClient, name: str, version: int) -> bool:
        """Say whether requests failed since the last look, and none was computed."""
        key, now = (name, version), time.monotonic()
        if now < self._counted_s.get(key, 0.0) + self._interval_s:
            return False
        self._counted_s[key] = now
        with contextlib.suppress(ResxError):
            before, self._counts[key] = self._counts.get(key), counts(client, name, version)
            return before is not None and self._counts[key].has_only_failed_since(before)
        return False

    def _ask(self, client: TritonClient, name: str, version: int, begun: float) -> Fault | None:
        def of_model(kind: Kind, error: ResxError) -> Fault:
            return fault_of(name, version, kind, error, since_s=begun)

        try:
            before = num_finished(client, name, version)
        except NotLoaded:
            return None
        except ResxError as error:
            return Fault(reason=f"the server reports nothing about {name}: {error}")
        try:
            card = self._card(name, version)
            if card is not None:  # what is served may have been configured anew meanwhile: ask what it takes
                interface = client.interface(name, version)
                with self._ledger.testing(client, (name, version), num_requests(interface)):
                    run_self_test(client, name, version, card, interface)
        except NotLoaded:
            return None
        except (NoAnswerInTime, ServerBusy) as error:
            busy = isinstance(error, ServerBusy)
            if self._finishes(client, name, version, before, self._timeout_s if busy else 0.0):
                return None
            stuck = of_model("hangs", error)
            return stuck if client.is_live() else Fault(reason=f"the server does not answer: {error}")
        except ConnectionLost as error:
            # A connection may end alone; that the server is gone is to be seen from another.
            return None if client.is_live() else Fault(reason=f"the server closed the self-test's connection: {error}")
        except ModelProcessLost as error:
            return of_model("died", error)
        except ResxError as error:
            return of_model("wrong", error)
        return None

    def _finishes(self, client: TritonClient, name: str, version: int, before: int, timeout_s: float) -> bool:
        """Say whether the model finishes a request, which one that is asked too much does."""
        deadline = time.monotonic() + timeout_s
        while not self._halt.is_set():
            with contextlib.suppress(ResxError):
                if num_finished(client, name, version) > before:
                    return True
            if time.monotonic() >= deadline:
                return False
            self._halt.wait(0.2)
        return True

    def _card(self, name: str, version: int) -> Card | None:
        """Return the version's card; None for a model without one, which is watched by its stubs alone."""
        key = (name, version)
        if key not in self._cards:
            try:
                self._cards[key] = self._repository.card(name, version)
            except UsageError:
                return None
        return self._cards[key]


def num_finished(client: TritonClient, name: str, version: int) -> int:
    """Return how many requests a version has computed."""
    return counts(client, name, version).computed


def counts(client: TritonClient, name: str, version: int) -> RequestCounts:
    """Return what became of a version's requests since it was loaded."""

    def total(what: str) -> int:
        return sum(int(entry["inference_stats"].get(what, {}).get("count", 0)) for entry in statistics)

    statistics = client.statistics(name, version)
    return RequestCounts(computed=total("success") - total("cache_hit"), failed=total("fail"))
