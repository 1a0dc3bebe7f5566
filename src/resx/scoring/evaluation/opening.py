"""A model to evaluate, by the text that names it: a run, a file, a published or served model, a variant."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resx.card import card as cards
from resx.card.origin import SourceArguments
from resx.errors import UsageError, nearest
from resx.names import parse_name
from resx.repository.versions import Repository
from resx.scoring.evaluation.subject import Subject
from resx.serving.client.address import Address
from resx.zoo.catalog import VARIANTS, names_onnx_file
from resx.zoo.spec import SPEC_FILE

_ENGINES = (".plan", ".engine")
_IN_FLIGHT = 4
"""Batches at the server at the same time, as `resx predict` has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where models are looked for, and what loads a network or a file."""

    repository: Repository
    address: Address | None
    """Of the server whose models are meant; None: models are those of the repository."""
    arguments: Callable[[str], SourceArguments]
    """What loads a variant, another network or a file."""
    require_no_options: Callable[[str], None] = lambda _text: None
    """Raises where options of a source were set, for a model that has weights, image size and labels of its own."""
    retries: int = 8
    """After a lost connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A model that can be asked."""

    subject: Subject
    run: Path | None = None
    """The run whose weights it has."""


def open_model(text: str, places: Places, held: contextlib.ExitStack) -> Opened:
    """Return a run, an .onnx file, a served model, a version, or a variant or other network, whichever was named.

    Args:
        text: what the user named.
        places: where it is looked for.
        held: closes the connections to a server.

    Raises:
        UsageError: it is none of them, or an option is not for it.
    """
    if not text:
        raise UsageError("THING is empty: name a run's folder, an .onnx file, a variant or a published model")
    path, repository = Path(text), places.repository
    if path.suffix.lower() in _ENGINES:
        raise UsageError(f"{text}: is a TensorRT engine; serve it and evaluate it there: NAME --url URL")
    if (path / SPEC_FILE).is_file():
        places.require_no_options(text)
        from resx.scoring.evaluation.loaded_subjects import open_run

        return Opened(subject=open_run(path), run=path)
    name, version = ("", None) if names_onnx_file(text) else _published(text)
    if name and (places.address or name in repository.names()):
        places.require_no_options(text)
        from resx.scoring.evaluation.published_subjects import open_served, open_version

        if places.address:
            served = open_served(places.address, name, version, in_flight=_IN_FLIGHT, retries=places.retries)
            return Opened(subject=held.enter_context(served))
        folder = repository.version_folder(name, version)
        return Opened(subject=open_version(repository, name, int(folder.name)), run=_run_of(folder))
    if name and text not in VARIANTS and not path.is_dir():
        near = nearest(name, [*repository.names(), *VARIANTS])
        raise UsageError(f"{text!r}: no run, .onnx file, variant or model of {repository.root}{near}")
    from resx.scoring.evaluation.loaded_subjects import open_source

    return Opened(subject=open_source(places.arguments(text)))


def _published(text: str) -> tuple[str, int | None]:
    """Return the name and version of a published model; an empty name for what cannot be one."""
    if "/" in text:
        return "", None
    try:
        return parse_name(text)
    except UsageError:  # torchvision:NAME
        return "", None


def _run_of(version_folder: Path) -> Path | None:
    """Return the run that a version was exported from, if it is still there."""
    from resx.export.request import source_base

    if not (version_folder / cards.FILE_NAME).is_file():
        return None
    card = cards.read_card(version_folder)
    arguments = card.source.arguments
    if card.source.kind != "run" or arguments is None:
        return None
    with contextlib.suppress(UsageError):
        run = source_base(card, arguments, version_folder) / arguments.source
        return run if (run / SPEC_FILE).is_file() else None
    return None
