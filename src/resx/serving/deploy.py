"""Bring a version of the repository into service on a running server, and only if it answers as its card says.

Works on any Triton over the same repository: the embedded one, or NVIDIA's container.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from resx.errors import MissingCapability, ParityError, ResxError, ServerError
from resx.export import card as cards
from resx.export.card import Card
from resx.files import sha256_of
from resx.serving import triton_config
from resx.serving.client import TritonClient
from resx.serving.embedded import TRITON_VERSION
from resx.serving.repository import Repository
from resx.serving.state import record_deployed, running_server
from resx.serving.triton_config import CONFIG_FILE


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


def deploy(client: TritonClient, repository: Repository, name: str) -> Deployed:
    """Load the newest version of a model and check its answer to the canary.

    If it fails, the version that answered before is loaded again; if there was none, the model is unloaded.
    A model without a card is loaded as it is.

    Raises:
        UsageError: the repository has no such model.
        ParityError: the file is not the one that was verified, or the server's answer is not its card's.
        ServerError: the server refused the version; the one before goes on answering.
    """
    folder = repository.version_folder(name)
    version = int(folder.name)
    if not (folder / cards.FILE_NAME).is_file():
        return _load_unchecked(client, repository, name)
    card = cards.read_card(folder)
    _require_unchanged(repository, name, version, card)
    if card.engine is not None and client.server_version() == TRITON_VERSION:
        raise MissingCapability(
            f"{name} version {version}: a TensorRT plan, and the embedded Triton has no TensorRT; "
            "serve it with NVIDIA's container (docker compose --profile gpu up)"
        )
    loaded = client.model_versions().get(name, [])
    previous = loaded[-1] if loaded else None
    # Exactly this version, whatever is published meanwhile.
    client.load(name, config_for_version(repository, name, version))
    try:
        difference = canary(client, name, version, card)
    except ResxError as error:
        _restore(client, repository, name, previous)
        after = f"version {previous} answers again" if previous else "it was unloaded"
        raise type(error)(f"{error}; {after}") from error
    _record(client, repository, name, version)
    load_endpoints(client, repository, name)
    return Deployed(name=name, version=version, previous=previous, canary_difference=difference)


def _load_unchecked(client: TritonClient, repository: Repository, name: str) -> Deployed:
    """Load a model that `resx export` did not make; Triton reads from the file what its config.pbtxt leaves out."""
    loaded = client.model_versions().get(name, [])
    client.load(name)
    version = client.model_versions()[name][-1]
    previous = loaded[-1] if loaded else None
    _record(client, repository, name, version)
    return Deployed(name=name, version=version, previous=previous, canary_difference=0.0, checked=False)


def _record(client: TritonClient, repository: Repository, name: str, version: int) -> None:
    """Tell the server's supervisor, if it is one of ours, what to bring back from now on."""
    state = running_server(repository)
    if state and state.is_at(client.address.host_port):
        record_deployed(repository, name, [version])


def load_endpoints(client: TritonClient, repository: Repository, name: str) -> None:
    """Load a model's image endpoint, if it has one.

    Raises:
        ServerError: it does not load; the model itself goes on answering.
    """
    for endpoint in repository.endpoints(name):
        try:
            client.load(endpoint)
        except ServerError as error:
            raise ServerError(f"{error}; {name} itself answers, its image endpoint does not") from error
        _record(client, repository, endpoint, 1)


def canary(client: TritonClient, name: str, version: int, card: Card) -> float:
    """Send the canary to a version and return how far its answer is from the card's, relative to the scale.

    Raises:
        ParityError: it is too far, or not finite.
        ServerError: the server gave no answer.
    """
    interface = client.interface(name, version)
    images = cards.canary_input(card.signature, card.canary.num_images)
    answer = client.infer(name, interface, images, version)
    difference = cards.canary_difference(card.canary, answer.logits)
    if not difference <= card.canary.tolerance:
        raise ParityError(
            f"{name} version {version}: the served answer differs from the card's by {difference:.3g} of its scale, "
            f"allowed {card.canary.tolerance:g}"
        )
    return difference


def _require_unchanged(repository: Repository, name: str, version: int, card: Card) -> None:
    folder = repository.version_folder(name, version)
    for file, expected in card.files.items():
        path = folder / file
        if not path.is_file() or sha256_of(path) != expected:
            raise ParityError(f"{path}: missing or not the file that was verified; export the model again")


def _restore(client: TritonClient, repository: Repository, name: str, previous: int | None) -> None:
    if previous is None:
        client.unload(name)
        return
    client.load(name, config_for_version(repository, name, previous))


def config_for_version(repository: Repository, name: str, version: int) -> str:
    """Return the model's configuration as JSON with the version policy set to one version."""
    from google.protobuf import json_format

    message = triton_config.parse((repository.root / name / CONFIG_FILE).read_text())
    config = json_format.MessageToDict(message, preserving_proto_field_name=True)
    config["version_policy"] = {"specific": {"versions": [version]}}
    return json.dumps(config)
