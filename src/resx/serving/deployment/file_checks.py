"""A version's files, before a server sees them: whether it may load them, can run them, and they are those verified."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from resx.card import card as cards
from resx.card.card import Card
from resx.errors import MissingCapability, ParityError, ResxError
from resx.files.staging import sha256_of
from resx.repository import config_rules
from resx.repository.config_pbtxt import labels_text
from resx.repository.versions import Published
from resx.serving.deployment.served_model import ServedModel
from resx.serving.embedded.installation.triton_installation import TRITON_VERSION
from resx.serving.embedded.model_runtime import needs_runtime, require_runtime
from resx.serving.embedded.python_models import require_none_of_others


class VersionRejected(ParityError):  # noqa: N818 - named after what happened
    """A version that does not load, or does not answer as its card says; what answered before goes on."""


def check_files(model: ServedModel, version: Published) -> Card | None:
    """Return a version's card after its files were compared with it; None for a model that resx did not export.

    Raises:
        UsageError: the model or its image endpoint may not be loaded (`config_rules`).
        VersionRejected: a file is not the one that was verified.
        UsageError: a class's name is no line of labels.txt, so that labels behind it are those of other classes.
        MissingCapability: the server cannot be reached, or cannot run such a version.
    """
    repository, name = model.repository, model.name
    repository.require_readable(name, None)  # Triton looks at the model's other versions too
    for part in (name, *repository.endpoints(name)):
        config_rules.require_contained(repository.root, part)
    if model.is_embedded:
        require_none_of_others(repository.root, name, model.server_dir)
    card = cards.read_card(version.folder) if repository.has_card(name, version.version) else None
    if not model.server_dir and needs_runtime(model.folder):
        embedded = model.client.server_version() == TRITON_VERSION
        require_runtime(model.folder, card, embedded=embedded, device=model.device)
    if card is not None:
        _require_verified(version, card)
    return card


def _require_verified(version: Published, card: Card) -> None:
    if card.unproved:
        raise VersionRejected(f"{version.folder}: {card.unproved}; export the model again")
    for file, expected in card.files.items():
        path = version.folder / file
        if not path.is_file() or sha256_of(path) != expected:
            raise VersionRejected(f"{path}: missing or not the file that was verified; export the model again")
    labels_text(card)


@contextlib.contextmanager
def rejecting(name: str, version: int, after: str) -> Iterator[None]:
    """Tell a version's failure as one, with what answers now."""
    try:
        yield
    except MissingCapability:
        raise
    except ResxError as error:
        raise VersionRejected(f"{say_which(name, version, error)}; {after}") from error


def say_which(name: str, version: int, error: ResxError) -> str:
    """Return an error's text with the version that it is about."""
    text = str(error)
    return text if f"{name} version {version}" in text else f"{name} version {version}: {text}"
