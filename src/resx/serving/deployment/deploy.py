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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resx.card import int8_processor
from resx.card.card import Card
from resx.errors import MissingCapability, ResxError, ServerError, UsageError
from resx.repository import config_rules
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Published, Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import version_pinning
from resx.serving.deployment.file_checks import VersionRejected, check_files, rejecting, say_which
from resx.serving.deployment.first_answer import require_answer
from resx.serving.deployment.rehearsal import forget_rehearsal, rehearse, require_room
from resx.serving.deployment.served_model import ServedModel, alone, canary, find_served, processor_of
from resx.serving.deployment.version_switch import plan_switch
from resx.serving.embedded.devices import require_device_for
from resx.serving.embedded.server_backends import missing_python, require_runnable
from resx.serving.running.state_folders import make_folder
from resx.serving.running.version_records import OURS

_TRIAL_STEP_S = 0.2


class EndpointFailed(ServerError):  # noqa: N818 - named after what happened
    """An image endpoint that does not load; its model answers."""


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
    repository.find(name, version)
    with alone(repository, name, wait=manner.wait, on_step=on_step):
        published = repository.find(name, version)  # while another command had the model, versions may come and go
        model = find_served(client, repository, name, starting=manner.starting, server_dir=manner.server_dir)
        return deploy_alone(model, published, manner=manner, on_step=on_step)


def deploy_alone(model: ServedModel, version: Published, *, manner: Manner, on_step: Callable[[str], None]) -> Deployed:
    """Do what `deploy` does, for a caller that holds the model by `alone`."""
    client, name, number = model.client, model.name, version.version
    card = check_files(model, version)
    _require_runnable_there(model)
    if not model.has_config:
        return _load_bare(model, version)
    if not model.starting:
        make_folder(model.repository)  # what is served then must be recorded
    loaded = model.loaded()
    answering = max(loaded, default=None)
    forget_rehearsal(client, name)
    difference = _bring(model, version, card, loaded, manner, on_step)
    kept = manner.keep_previous and answering not in {None, number}
    model.record(name, [answering, number] if kept else [number], answering)
    load_endpoints(model)
    return Deployed(
        name=name,
        version=number,
        previous=answering,
        canary_difference=difference,
        checked=card is not None,
        kept=kept,
    )


def _require_runnable_there(model: ServedModel) -> None:
    if model.server == OURS:
        require_runnable(model.folder, model.server_dir)
    if model.device is not None:
        require_device_for(model.folder, model.device)
    if not model.starting and model.name not in model.client.repository_models():
        with contextlib.suppress(ServerError):
            model.client.load(model.name)  # a server whose mode forbids it says so first
        model.require_in_its_repository()


def _bring(
    model: ServedModel,
    version: Published,
    card: Card | None,
    loaded: Sequence[int],
    manner: Manner,
    on_step: Callable[[str], None],
) -> float:
    """Rehearse, load, prove, switch and watch; return the canary's difference, with the model as it is to stay."""
    client, name, new = model.client, model.name, version.version
    old = max(loaded, default=None)
    switch = plan_switch(model.repository, name, old, new, keep_previous=manner.keep_previous)
    if manner.rehearse and switch.is_rehearsed:
        on_step(f"test version {new} under another name")
        if model.server == OURS:
            require_room(version)
        with rejecting(name, new, f"version {old} kept serving"), rehearse(client, version) as alias:
            canary(client, alias, new, card)
    try:
        on_step(f"load version {new} and check its answer")
        model.switch(switch.beside)
        if card is not None and (other := int8_processor.differs(card, processor_of(client))):
            on_step(f"check int8 on this processor: {other}")
        difference = canary(client, name, new, card)
        if switch.is_monitored and manner.trial_s:
            on_step(f"monitor version {new} for {manner.trial_s:g} s{switch.standby}")
            _try_out(client, name, new, card, manner.trial_s)
        if not manner.keep_previous and len(switch.beside) > 1:
            model.switch([new])
    except (ResxError, KeyboardInterrupt) as error:
        after = model.restore(loaded)
        if isinstance(error, MissingCapability | KeyboardInterrupt):
            raise
        raise VersionRejected(f"{say_which(name, new, error)}; {after}") from error
    return difference


def load_endpoints(model: ServedModel) -> None:
    """Load a model's image endpoint, if it has one; a starting server without Python inside goes without it.

    Raises:
        EndpointFailed: it does not load; the model itself goes on answering.
        MissingCapability: it needs Python inside the server, and there is none; likewise.
    """
    repository, name = model.repository, model.name
    for endpoint in repository.endpoints(name):
        if model.starting and missing_python(model.server_dir):
            return
        if model.server == OURS:
            try:
                require_runnable(repository.root / endpoint, model.server_dir)
            except MissingCapability as error:
                raise MissingCapability(f"{error}; {name} itself is served") from error
        config_rules.require_contained(repository.root, endpoint)
        try:
            model.client.load(endpoint, version_pinning.config_json(repository, endpoint, [1]))
            require_answer(model.client, endpoint, 1)
        except ServerError as error:
            with contextlib.suppress(ResxError):
                model.client.unload(endpoint)
            raise EndpointFailed(f"{error}; {name} itself is served, its image endpoint is not") from error
        model.record(endpoint, [1], None)


def _try_out(client: TritonClient, name: str, version: int, card: Card | None, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(_TRIAL_STEP_S)
        canary(client, name, version, card)


def _load_bare(model: ServedModel, version: Published) -> Deployed:
    """Load a model that has no configuration; Triton reads from the newest file what there is to know."""
    client, name = model.client, model.name
    if version.version != model.repository.versions(name)[-1]:
        raise UsageError(f"{name}: has no {CONFIG_FILE}, so Triton loads its newest version; remove --version")
    loaded = model.loaded()
    client.load(name)
    serving = model.loaded()[-1]
    try:
        require_answer(client, name, serving)
    except ServerError as error:
        client.unload(name)
        raise VersionRejected(f"{say_which(name, serving, error)}; it was unloaded") from error
    previous = loaded[-1] if loaded else None
    model.record(name, [serving], previous)
    return Deployed(name=name, version=serving, previous=previous, canary_difference=0.0, checked=False)
