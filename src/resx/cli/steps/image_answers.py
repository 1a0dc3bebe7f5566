"""What `resx query` asks, of a server or, where none runs, of the published version's file in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resx.errors import MissingCapability, nearest
from resx.names import is_model_name
from resx.repository.config_pbtxt import output_kind_of
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.image_queries import Guess, classify_files, classify_raw_files, load_images
from resx.serving.running.server_state import is_starting, running_server
from resx.serving.running.version_records import version_to_start

if TYPE_CHECKING:
    from resx.card.kinds import OutputKind
    from resx.serving.client.address import Address
    from resx.serving.client.server_errors import ConnectionLost


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedImages:
    """Which model is asked about which images."""

    model: str
    images: list[Path]
    top: int
    version: int | None
    """None: the one that the server serves, or would start with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredImages:
    """The most likely classes of each image, and who gave them."""

    guesses: list[list[Guess]]
    kind: OutputKind
    is_random: bool
    url: str | None
    """The server's; None: computed in this process."""


def ask_server(address: Address, asked: AskedImages, *, raw: bool, retries: int) -> AnsweredImages:
    """Ask a server; with `raw` its image endpoint is sent the files.

    Raises:
        UsageError: a file is no image, or the model is not loaded or takes none.
        MissingCapability: no server answers.
    """
    name, top, version = asked.model, asked.top, asked.version
    decoded = [] if raw else load_images(asked.images)
    with TritonClient(address, retries=retries) as client:
        interface = client.interface(name, version)
        guesses = (
            classify_raw_files(client, name, asked.images, top=top)
            if raw
            else classify_files(client, name, decoded, top=top, version=version, names=asked.images)
        )
    return AnsweredImages(
        guesses=guesses,
        kind=output_kind_of(interface.parameters),
        is_random=interface.has_random_weights,
        url=str(address),
    )


def compute_here(root: Path, asked: AskedImages, lost: ConnectionLost) -> AnsweredImages:
    """Compute in this process what the repository's server would answer.

    Args:
        root: of the repository.
        asked: the images and the model.
        lost: that no server answers.

    Raises:
        UsageError: there is no such version, it takes no images, or an image cannot be used.
        MissingCapability: `lost`, where a server runs or starts after all, the repository has no such model, or nothing
            here computes its file.
    """
    from resx.scoring.few_images import classify_in_process
    from resx.scoring.in_process import find_model

    repository, name = Repository(root), asked.model
    if is_starting(repository) or running_server(repository):  # in this order: it may get ready in between
        raise lost
    if not is_model_name(name) or not repository.versions(name):
        raise MissingCapability(
            f"{lost}; {repository.root} has no model {name} to compute here{nearest(name, repository.names())}"
        ) from lost
    try:
        file = find_model(repository, name, asked.version or version_to_start(repository, name))
        guesses = classify_in_process(file, load_images(asked.images), top=asked.top, names=asked.images)
    except MissingCapability as error:
        raise lost from error
    return AnsweredImages(
        guesses=guesses, kind=file.model.output_kind, is_random=file.model.interface.has_random_weights, url=None
    )
