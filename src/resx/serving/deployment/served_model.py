"""A model of a repository on one server: what is loaded there, asked, recorded and put back.

Which server it is to resx (the repository's own, another one of this user's, a foreign one) is found out once, when a
command begins, and handed on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resx.card import int8_processor
from resx.card.card import Card
from resx.errors import ResxError, ServerBusy, ServerError, UsageError
from resx.files.locks import exclusive
from resx.gpus import Device
from resx.machine import instruction_set
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import is_loopback, split_host
from resx.serving.client.server_errors import ConnectionLost, NoAnswerInTime
from resx.serving.deployment import version_pinning
from resx.serving.deployment.first_answer import require_answer
from resx.serving.deployment.self_test import repeat_int8, run_self_test
from resx.serving.running.server_state import server_at
from resx.serving.running.version_records import OURS, record_chosen, record_deployed, record_previous, remembered_as

_BUSY_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model of a repository, and the server that it is served by."""

    client: TritonClient
    repository: Repository
    name: str
    server: str
    """As `server_state.remembered_as` says: OURS is the repository's own."""
    is_embedded: bool
    """It is one of this user's that resx started, over whichever repository."""
    device: Device | None
    """Of an embedded one that others can find."""
    server_dir: str
    """The folder of another Triton's files that serves; empty for resx's own, or where it is not known."""
    starting: bool = False
    """By the repository's own server as it starts: what it loads is deployed, and nobody chose it."""

    @property
    def folder(self) -> Path:
        """Of the model in the repository."""
        return self.repository.root / self.name

    @property
    def has_config(self) -> bool:
        """Say whether it has a configuration; one without loads with the interface in its file."""
        return (self.folder / CONFIG_FILE).is_file()

    def loaded(self) -> tuple[int, ...]:
        """Return the versions that are ready, oldest first."""
        return tuple(self.client.model_versions().get(self.name, ()))

    def require_in_its_repository(self) -> None:
        """Check that the server's own repository, which need not be this folder, has the model.

        Raises:
            UsageError: it has not.
        """
        if self.name not in self.client.repository_models():
            raise UsageError(
                f"{self.client.address}: has no {self.name} in its model repository; copy {self.folder} there, or "
                f"serve {self.repository.root}"
            )

    def switch(self, versions: Sequence[int]) -> None:
        """Have exactly these versions loaded; those that are loaded already are not loaded again.

        Raises:
            ServerError: one of them did not load; what was loaded before still is.
        """
        self.client.load(self.name, version_pinning.config_json(self.repository, self.name, versions))
        if missing := sorted(set(versions) - set(self.loaded())):
            raise ServerError(
                f"{self.client.address}: loaded {self.name} without version {missing[0]}; its repository must hold the "
                "same files"
            )

    def restore(self, loaded: Sequence[int]) -> str:
        """Load what was loaded before; return in words what answers now."""
        try:
            if not loaded:
                self.client.unload(self.name)
                return "it was unloaded"
            self.switch(loaded)
        except (ConnectionLost, NoAnswerInTime):
            return "the server stopped answering; `resx status` shows what was recovered"
        except ResxError as error:
            return f"the models loaded before could not be restored: {error}"
        return f"version {max(loaded)} is served again"

    def record(self, model: str, versions: Sequence[int | None], previous: int | None) -> None:
        """Remember what is served from now on, for the server's supervisor if it is ours, and what was before.

        Args:
            model: this one, or one of its image endpoint.
            versions: that are served; none: it is out of service.
            previous: the version that answered.
        """
        serving = [version for version in versions if version is not None]
        if self.server == OURS:
            record_deployed(self.repository, model, serving)
        if not self.starting and (serving or (self.repository.root / model).is_dir()):
            record_chosen(self.repository, self.server, model, serving)
        if previous is not None and previous != max(serving, default=None):
            record_previous(self.repository, self.server, model, previous)


def find_served(
    client: TritonClient, repository: Repository, name: str, *, starting: bool = False, server_dir: str = ""
) -> ServedModel:
    """Return a model on the server that a client speaks to; `server_dir` is of one that starts, unknown to others."""
    state = server_at(client.address.host_port)
    return ServedModel(
        client=client,
        repository=repository,
        name=name,
        server=OURS if starting else remembered_as(repository, client.address.host_port),
        is_embedded=starting or state is not None,
        device=state.device if state else None,
        server_dir=server_dir or (state.server_dir if state else ""),
        starting=starting,
    )


@contextlib.contextmanager
def alone(
    repository: Repository, name: str, *, wait: bool = True, on_step: Callable[[str], None] = lambda _step: None
) -> Iterator[None]:
    """Be the only one to change what is served of a model of this repository, whoever else runs on this machine.

    Raises:
        ServerError: somebody else does, and `wait` is false.
    """
    folder, held = repository.root / name, contextlib.ExitStack()
    with held:
        try:
            held.enter_context(exclusive(folder, wait=False))
        except BlockingIOError:
            if not wait:
                raise ServerError(
                    f"{name}: another command is deploying it; try again when it has finished, or remove --no-wait"
                ) from None
            on_step(f"wait for another command that is deploying {name}")
            held.enter_context(exclusive(folder))
        yield


def canary(
    client: TritonClient, served_as: str, version: int, card: Card | None, *, processor: str | None = None
) -> float:
    """Send the canary to a version and return how far its answer is from the card's, relative to the scale.

    While the queue is full it asks again. Without a card it must answer at all (`first_answer`). An int8 version that
    was verified on other 8-bit instructions answers the rows that its card keeps for them too.

    Args:
        client: of the server.
        served_as: the model's name there.
        version: of the model.
        card: of the version.
        processor: the server's instruction set; None: this machine's, or not known where the server is elsewhere.

    Raises:
        ParityError: it is too far, not finite, or of another shape.
        ServerError: the server gave no answer.
    """
    if card is None:
        require_answer(client, served_as, version)
        return 0.0
    interface = client.interface(served_as, version)
    serving_on = processor_of(client) if processor is None else processor
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            difference = run_self_test(client, served_as, version, card, interface)
            if int8_processor.differs(card, serving_on):
                repeat_int8(client, served_as, version, card, interface, serving_on)
            return difference
        except ServerBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def processor_of(client: TritonClient) -> str:
    """Return the instruction set of the processor that a server is on; empty where it is not this machine's."""
    return instruction_set() if is_loopback(split_host(client.address.host_port)[0]) else ""
