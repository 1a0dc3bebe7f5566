"""Bring a version of the repository into service on a running server, and only if it answers as its card says.

Works on any Triton over the same repository: the embedded one, or NVIDIA's container. What Triton 2.51 does, and
so how a version is changed here without a request that notices:

    A load that names versions loads those that are missing, and replaces them all at once when they are ready. One
    that it has, under a configuration that differs in nothing but the version policy, it keeps: a switch between
    loaded versions takes milliseconds.
    A request without a version goes to the newest that is loaded, at once.

So a new version is rehearsed before it is loaded under its name (`rehearsal.py`); then it is loaded beside the one
that answers, proves itself again, and is watched for a while with the old one still at hand.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from resx.card import card as cards
from resx.card.card import Card
from resx.errors import MissingCapability, ParityError, ResxError, ServerBusy, ServerError, UsageError
from resx.files.locks import exclusive
from resx.files.staging import sha256_of
from resx.repository import config_rules
from resx.repository.config_pbtxt import CONFIG_FILE, labels_text
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import ConnectionLost, NoAnswerInTime
from resx.serving.deployment import version_pinning
from resx.serving.deployment.first_answer import require_answer
from resx.serving.deployment.rehearsal import forget_rehearsal, rehearse, require_room
from resx.serving.deployment.self_test import run_self_test
from resx.serving.embedded.devices import require_device_for
from resx.serving.embedded.engine_runtime import engine_backend, require_engine_runtime
from resx.serving.embedded.python_models import require_none_of_others
from resx.serving.embedded.server_backends import missing_python, require_runnable
from resx.serving.embedded.triton_installation import TRITON_VERSION
from resx.serving.running.server_state import (
    OURS,
    make_folder,
    record_chosen,
    record_deployed,
    record_previous,
    remembered_as,
    server_at,
    server_dir_at,
)

_BUSY_S = 30.0
_TRIAL_STEP_S = 0.2


class EndpointFailed(ServerError):  # noqa: N818 - named after what happened
    """An image endpoint that does not load; its model answers."""


class VersionRejected(ParityError):  # noqa: N818 - named after what happened
    """A version that does not load, or does not answer as its card says; what answered before goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A version that answers."""

    name: str
    version: int
    previous: int | None
    canary_difference: float
    """Largest difference from the card's logits, relative to their scale."""
    checked: bool = True
    """Whether there was a card to compare with; another's ONNX file has none."""
    kept: bool = False
    """Whether the previous version is still loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How a version is brought into service."""

    rehearse: bool = True
    """Whether a version newer than the one that answers is first tried under another name."""
    trial_s: float = 0.0
    """How long it is asked its canary, with the one before at hand, until that is unloaded."""
    keep_previous: bool = False
    """Leave the one before loaded."""
    wait: bool = True
    """For another deployment of the same model; else refuse."""
    starting: bool = False
    """By the repository's own server as it starts: what it loads is deployed, and nobody chose it."""
    server_dir: str = ""
    """Of the server that starts, whose state nobody can read yet."""

    def __post_init__(self) -> None:
        if not 0 <= self.trial_s <= 86400:
            raise UsageError(f"trial_s={self.trial_s}: give 0 to 86400 seconds")


FIRST = Manner()


def deploy(
    client: TritonClient,
    repository: Repository,
    name: str,
    version: int | None = None,
    *,
    manner: Manner = FIRST,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Deployed:
    """Let a version answer, the newest if none is named, after it gave the answer of its card on that server.

    If it fails, the versions that were loaded before answer as before; if there were none, the model is unloaded.
    A model without a card is asked once whether it answers.

    Raises:
        UsageError: the repository has no such model or version.
        VersionRejected: the file is not the one that was verified, the server refused it, or its answer is wrong.
        ServerError: another deployment of the model is under way and `manner.wait` is false.
        MissingCapability: the server cannot be reached, or cannot run such a version.
        ResxError: a disk is full that the deployment needs.
    """
    repository.version_folder(name, version)
    with alone(repository, name, wait=manner.wait, on_step=on_step):
        return deploy_alone(client, repository, name, version, manner=manner, on_step=on_step)


def deploy_alone(
    client: TritonClient,
    repository: Repository,
    name: str,
    version: int | None,
    *,
    manner: Manner,
    on_step: Callable[[str], None],
) -> Deployed:
    """Do what `deploy` does, for a caller that holds the model by `alone`."""
    number = int(repository.version_folder(name, version).name)
    server_dir = manner.server_dir or server_dir_at(client.address.host_port)
    card = check_files(client, repository, name, number, starting=manner.starting, server_dir=server_dir)
    if _is_ours(client, repository, manner):
        require_runnable(repository.root / name, server_dir)
    if server := server_at(client.address.host_port):
        require_device_for(repository.root / name, server.device)
    if not manner.starting and name not in client.repository_models():
        with contextlib.suppress(ServerError):
            client.load(name)  # a server whose mode forbids it says so first
        require_in_its_repository(client, repository, name)
    if not (repository.root / name / CONFIG_FILE).is_file():
        return _load_bare(client, repository, name, version, starting=manner.starting)
    if not manner.starting:
        make_folder(repository)  # what is served then must be recorded
    loaded = tuple(client.model_versions().get(name, ()))
    answering = max(loaded, default=None)
    forget_rehearsal(client, name)
    difference = _bring(client, repository, name, number, card, loaded, manner, on_step)
    kept = manner.keep_previous and answering not in {None, number}
    record(client, repository, name, [answering, number] if kept else [number], answering, starting=manner.starting)
    load_endpoints(client, repository, name, starting=manner.starting, server_dir=server_dir)
    return Deployed(
        name=name,
        version=number,
        previous=answering,
        canary_difference=difference,
        checked=card is not None,
        kept=kept,
    )


def _bring(
    client: TritonClient,
    repository: Repository,
    name: str,
    version: int,
    card: Card | None,
    loaded: Sequence[int],
    manner: Manner,
    on_step: Callable[[str], None],
) -> float:
    """Rehearse, load, prove, switch and watch; return the canary's difference, with the model as it is to stay."""
    old = max(loaded, default=None)
    if manner.keep_previous and old is not None and old > version:
        raise UsageError(
            f"{name}: version {old} cannot be kept beside {version}, as requests without a version go to the newest; "
            "leave out --keep-previous"
        )
    if manner.rehearse and old is not None and version > old:
        on_step(f"rehearse version {version} under another name")
        if remembered_as(repository, client.address.host_port) == OURS:
            require_room(repository, name, version)
        with (
            rejecting(name, version, f"version {old} went on answering"),
            rehearse(client, repository, name, version) as alias,
        ):
            canary(client, alias, version, card)
    beside = sorted({version} if old is None else {old, version})
    try:
        on_step(f"load version {version} and check its answer")
        switch(client, repository, name, beside)
        difference = canary(client, name, version, card)
        if old is not None and version > old and manner.trial_s:
            on_step(f"watch version {version} for {manner.trial_s:g} s, version {old} at hand")
            _try_out(client, name, version, card, manner.trial_s)
        if not manner.keep_previous and len(beside) > 1:
            switch(client, repository, name, [version])
    except (ResxError, KeyboardInterrupt) as error:
        after = restore(client, repository, name, loaded)
        if isinstance(error, MissingCapability | KeyboardInterrupt):
            raise
        raise VersionRejected(f"{_of(name, version, error)}; {after}") from error
    return difference


def check_files(
    client: TritonClient,
    repository: Repository,
    name: str,
    version: int,
    *,
    starting: bool = False,
    server_dir: str = "",
) -> Card | None:
    """Return a version's card after its files were compared with it; None for a model that resx did not export.

    Raises:
        UsageError: the model or its image endpoint may not be loaded (`config_rules`).
        VersionRejected: a file is not the one that was verified.
        UsageError: a class's name is no line of labels.txt, so that labels behind it are those of other classes.
        MissingCapability: the server cannot be reached, or cannot run such a version.
    """
    folder = repository.version_folder(name, version)
    repository.require_readable(name, None)  # Triton looks at the model's other versions too
    for model in (name, *repository.endpoints(name)):
        config_rules.require_contained(repository.root, model)
    server_dir = server_dir or server_dir_at(client.address.host_port)
    if starting or server_at(client.address.host_port) is not None:
        require_none_of_others(repository.root, name, server_dir)
    card = cards.read_card(folder) if repository.has_card(name, version) else None
    if not server_dir and engine_backend(repository.root / name):
        server = server_at(client.address.host_port)
        require_engine_runtime(
            repository.root / name,
            card,
            embedded=client.server_version() == TRITON_VERSION,
            device=server.device if server else None,
        )
    if card is None:
        return None
    if card.unproved:
        raise VersionRejected(f"{folder}: {card.unproved}; export the model again")
    for file, expected in card.files.items():
        path = folder / file
        if not path.is_file() or sha256_of(path) != expected:
            raise VersionRejected(f"{path}: missing or not the file that was verified; export the model again")
    labels_text(card)
    return card


def _is_ours(client: TritonClient, repository: Repository, manner: Manner) -> bool:
    return manner.starting or remembered_as(repository, client.address.host_port) == OURS


def require_in_its_repository(client: TritonClient, repository: Repository, name: str) -> None:
    """Check that the server's own repository, which need not be this folder, has the model.

    Raises:
        UsageError: it has not.
    """
    if name not in client.repository_models():
        raise UsageError(
            f"{client.address}: has no {name} in its model repository; copy {repository.root / name} there, or serve "
            f"{repository.root}"
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
                    f"{name}: another command is deploying it; try again when it is done, or leave out --no-wait"
                ) from None
            on_step(f"wait for another command that is deploying {name}")
            held.enter_context(exclusive(folder))
        yield


def switch(client: TritonClient, repository: Repository, name: str, versions: Sequence[int]) -> None:
    """Have exactly these versions loaded; those that are loaded already are not loaded again.

    Raises:
        ServerError: one of them did not load; what was loaded before still is.
    """
    client.load(name, version_pinning.config_json(repository, name, versions))
    loaded = client.model_versions().get(name, [])
    if missing := sorted(set(versions) - set(loaded)):
        raise ServerError(
            f"{client.address}: loaded {name} without version {missing[0]}; its repository must hold the same files"
        )


def canary(client: TritonClient, served_as: str, version: int, card: Card | None) -> float:
    """Send the canary to a version and return how far its answer is from the card's, relative to the scale.

    While the queue is full it asks again. Without a card it must answer at all (`first_answer`).

    Raises:
        ParityError: it is too far, not finite, or of another shape.
        ServerError: the server gave no answer.
    """
    if card is None:
        require_answer(client, served_as, version)
        return 0.0
    interface = client.interface(served_as, version)
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            return run_self_test(client, served_as, version, card, interface)
        except ServerBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def record(
    client: TritonClient,
    repository: Repository,
    name: str,
    versions: Sequence[int | None],
    previous: int | None,
    *,
    starting: bool = False,
) -> None:
    """Remember what is served from now on, for the server's supervisor if it is ours, and what was before."""
    server = OURS if starting else remembered_as(repository, client.address.host_port)
    serving = [version for version in versions if version is not None]
    if server == OURS:
        record_deployed(repository, name, serving)
    if not starting and (serving or (repository.root / name).is_dir()):
        record_chosen(repository, server, name, serving)
    if previous is not None and previous != max(serving, default=None):
        record_previous(repository, server, name, previous)


def load_endpoints(
    client: TritonClient, repository: Repository, name: str, *, starting: bool = False, server_dir: str = ""
) -> None:
    """Load a model's image endpoint, if it has one; a starting server without Python inside goes without it.

    Raises:
        EndpointFailed: it does not load; the model itself goes on answering.
        MissingCapability: it needs Python inside the server, and there is none; likewise.
    """
    for endpoint in repository.endpoints(name):
        if starting and missing_python(server_dir):
            return
        if remembered_as(repository, client.address.host_port) == OURS:
            try:
                require_runnable(repository.root / endpoint, server_dir)
            except MissingCapability as error:
                raise MissingCapability(f"{error}; {name} itself answers") from error
        config_rules.require_contained(repository.root, endpoint)
        try:
            client.load(endpoint, version_pinning.config_json(repository, endpoint, [1]))
            require_answer(client, endpoint, 1)
        except ServerError as error:
            with contextlib.suppress(ResxError):
                client.unload(endpoint)
            raise EndpointFailed(f"{error}; {name} itself answers, its image endpoint does not") from error
        record(client, repository, endpoint, [1], None, starting=starting)


@contextlib.contextmanager
def rejecting(name: str, version: int, after: str) -> Iterator[None]:
    """Tell a version's failure as one, with what answers now."""
    try:
        yield
    except MissingCapability:
        raise
    except ResxError as error:
        raise VersionRejected(f"{_of(name, version, error)}; {after}") from error


def _of(name: str, version: int, error: ResxError) -> str:
    text = str(error)
    return text if f"{name} version {version}" in text else f"{name} version {version}: {text}"


def _try_out(client: TritonClient, name: str, version: int, card: Card | None, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(_TRIAL_STEP_S)
        canary(client, name, version, card)


def restore(client: TritonClient, repository: Repository, name: str, loaded: Sequence[int]) -> str:
    """Load what was loaded before; return in words what answers now."""
    try:
        if not loaded:
            client.unload(name)
            return "it was unloaded"
        switch(client, repository, name, loaded)
    except (ConnectionLost, NoAnswerInTime):
        return "the server does not answer any more; `resx status` tells what came back"
    except ResxError as error:
        return f"what was loaded before could not be restored: {error}"
    return f"version {max(loaded)} answers again"


def _load_bare(
    client: TritonClient, repository: Repository, name: str, version: int | None, *, starting: bool
) -> Deployed:
    """Load a model that has no configuration; Triton reads from the newest file what there is to know."""
    if version not in {None, repository.versions(name)[-1]}:
        raise UsageError(f"{name}: has no {CONFIG_FILE}, so Triton loads its newest version; leave out --version")
    loaded = client.model_versions().get(name, [])
    client.load(name)
    serving = client.model_versions()[name][-1]
    try:
        require_answer(client, name, serving)
    except ServerError as error:
        client.unload(name)
        raise VersionRejected(f"{_of(name, serving, error)}; it was unloaded") from error
    previous = loaded[-1] if loaded else None
    record(client, repository, name, [serving], previous, starting=starting)
    return Deployed(name=name, version=serving, previous=previous, canary_difference=0.0, checked=False)
