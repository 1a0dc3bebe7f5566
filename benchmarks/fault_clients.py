"""Clients that ask a served model all the time and compare every answer, and the row of a table that they come to."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.support.running_triton import FREE, MODEL, wait_until
from tests.support.tiny_models import publish_tiny

from resx.card.card import Card
from resx.card.runtime import RuntimeName
from resx.errors import ResxError
from resx.repository.versions import Published, Repository
from resx.runtimes.model_file import open_model
from resx.serving.client.address import PROTOCOLS, Protocol
from resx.serving.client.client import TritonClient
from resx.serving.running.logs import last_lines
from resx.serving.running.server_state import LOG, ServerState, now_s, running_server
from resx.serving.running.state_folders import folder_of
from resx.serving.supervisor.detaching import serve_detached, stop

RECOVER_S = 10.0
SERVED_WITH: list[str] = []
"""Options of `resx serve` for every server that is broken here."""
COMPUTED_BY: list[RuntimeName] = ["onnxruntime"]
"""What computes every model that is broken here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the table."""

    fault: str
    times: int
    sent: int
    lost: int
    wrong: int
    seconds: tuple[float, ...]
    """Per injection: until the last client was answered again; for SIGTERM: until the process was gone."""
    detected_s: tuple[float, ...] = ()
    missed: tuple[str, ...] = ()
    """Bars that did not hold."""
    note: str = ""
    """What the columns do not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """Requests with known answers."""

    images: npt.NDArray[np.uint8]
    expected: dict[int, npt.NDArray[np.float32]]
    """Logits by the version that gives them; an answer must be those of the version that it names."""

    def learn(self, repository: Repository, version: int) -> None:
        """Learn what a version's file answers in process."""
        card = repository.card(MODEL, version)
        model = open_model(repository.version_folder(MODEL, version) / card.model_file, card)
        self.expected[version] = np.concatenate([model(self.images[i : i + 1]) for i in range(len(self.images))])


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One request and how it ended."""

    sent_s: float
    ended_s: float
    error: ResxError | None
    right: bool
    version: int = 0
    """That the answer names."""


class Asker(threading.Thread):
    """A client that sends one request after the other until told to stop, and remembers each."""

    def __init__(self, state: ServerState, protocol: Protocol, questions: Questions, *, retries: int) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self.retries = retries
        self._address, self._questions = state.address(protocol), questions
        self._halt = threading.Event()

    def run(self) -> None:
        """Ask until `finish`."""
        with TritonClient(self._address, timeout_s=30, retries=self.retries) as client:
            interface = client.interface(MODEL)
            while not self._halt.is_set():
                index = len(self.events) % len(self._questions.images)
                sent, error, right, version = now_s(), None, True, 0
                try:
                    answer = client.infer(MODEL, interface, self._questions.images[index : index + 1])
                    expected = self._questions.expected.get(answer.version)
                    right = expected is not None and bool(
                        np.allclose(answer.logits[0], expected[index], rtol=1e-3, atol=1e-4)
                    )
                    version = answer.version
                except ResxError as failure:
                    error = failure
                    self._halt.wait(0.02)  # a server that refuses at once is not asked in a tight loop
                self.events.append(Event(sent_s=sent, ended_s=now_s(), error=error, right=right, version=version))

    def finish(self) -> None:
        """Stop after the request that is under way."""
        self._halt.set()
        self.join(60)
        assert not self.is_alive(), "a request was neither answered nor refused within a minute"


def row_without_loss(
    fault: str, times: int, askers: Sequence[Asker], seconds: Sequence[float], missed: Collection[str]
) -> Row:
    """Return the row of a fault that no client may notice: a lost request or a wrong answer is a bar missed."""
    events = [event for asker in askers for event in asker.events]
    failed = [event for event in events if event.error]
    wrong = sum(not event.right for event in events)
    found = set(missed)
    if failed:
        found.add(f"{len(failed)} requests failed: {failed[0].error}")
    if wrong:
        found.add(f"{wrong} wrong answers")
    return Row(
        fault=fault,
        times=times,
        sent=len(events),
        lost=len(failed),
        wrong=wrong,
        seconds=tuple(seconds),
        missed=tuple(sorted(found)),
    )


def publish(repository: Repository, *, seed: int = 0, classes: int = 10) -> tuple[Card, Published]:
    """Publish a version of the tiny model, for the runtime that is broken here."""
    return publish_tiny(repository, MODEL, seed=seed, classes=classes, runtime=COMPUTED_BY[0])


@contextlib.contextmanager
def published() -> Iterator[tuple[Repository, Questions]]:
    """Give a repository with a tiny model, and questions with the answers that its file gives in process."""
    with tempfile.TemporaryDirectory(prefix="resx-faults-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        publish(repository)
        images = np.random.default_rng(0).integers(0, 256, (16, 3, 16, 16), dtype=np.uint8)
        questions = Questions(images=images, expected={})
        questions.learn(repository, 1)
        try:
            yield repository, questions
        except BaseException:
            log = folder_of(repository) / LOG
            print("".join(f"    {entry}\n" for entry in last_lines(log, 30)) if log.exists() else "", flush=True)
            raise
        finally:
            if running_server(repository):
                stop(repository)


def serve(repository: Repository, arguments: Sequence[str] = ()) -> ServerState:
    """Start a server on free ports, with further arguments of `resx serve`."""
    return serve_detached(repository, FREE, [*SERVED_WITH, *arguments])


@contextlib.contextmanager
def load(state: ServerState, questions: Questions, retries: Sequence[int]) -> Iterator[list[Asker]]:
    """Ask with one client per protocol and number of retries for as long as the block lasts."""
    askers = [Asker(state, protocol, questions, retries=number) for number in retries for protocol in PROTOCOLS]
    for asker in askers:
        asker.start()
    try:
        wait_until(lambda: all(len(asker.events) > 5 for asker in askers), "every client was answered")
        yield askers
    finally:
        for asker in askers:
            asker.finish()


HEADER = f"{'fault':<40}{'times':>6}{'sent':>9}{'lost':>7}{'wrong':>7}{'noticed max':>13}{'time median':>13}{'max':>8}"


def line(row: Row) -> str:
    """Return a row of the table."""
    noticed = f"{max(row.detected_s):.2f} s" if row.detected_s else "-"
    times = (
        f"{statistics.median(row.seconds):>11.2f} s{max(row.seconds):>6.2f} s" if row.seconds else f"{'-':>13}{'-':>8}"
    )
    missed = f"\n    {row.note}" if row.note else ""
    missed += "".join(f"\n    MISSED: {bar}" for bar in row.missed)
    return f"{row.fault:<40}{row.times:>6}{row.sent:>9}{row.lost:>7}{row.wrong:>7}{noticed:>13}{times}{missed}"
