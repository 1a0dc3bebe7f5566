"""What `resx evaluate` is given, as what can be asked."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.connection import Connection
from resx.cli.options.repository import parse_name
from resx.cli.options.source import SourceOptions
from resx.errors import UsageError, nearest

if TYPE_CHECKING:
    from resx.scoring.evaluation.subject import Subject

_ENGINES = (".plan", ".engine")
_IN_FLIGHT = 4
"""Batches at the server at the same time, as `resx predict` has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """Where models are, and what files do not say themselves."""

    source: SourceOptions
    server: Connection
    retries: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A model that can be asked."""

    subject: Subject
    run: Path | None = None
    """The run whose weights it has."""


def open_model(text: str, asking: Asking, held: contextlib.ExitStack, *, is_alone: bool) -> Opened:
    """Return a run, an .onnx file, a served model, a version, or a variant or other network, whichever was named.

    Args:
        text: what the user named.
        asking: where it is looked for.
        held: closes the connections to a server.
        is_alone: whether it is the only one, so that every option must be for it.

    Raises:
        UsageError: it is none of them, or an option is not for it.
    """
    from resx.repository.versions import Repository
    from resx.zoo.catalog import VARIANTS, names_onnx_file
    from resx.zoo.spec import SPEC_FILE

    if not text:
        raise UsageError("THING is empty: name a run's folder, an .onnx file, a variant or a published model")
    path, repository = Path(text), Repository(asking.server.repository)
    if path.suffix.lower() in _ENGINES:
        raise UsageError(f"{text}: is a TensorRT engine; serve it and evaluate it there: NAME --url URL")
    if (path / SPEC_FILE).is_file():
        _require_no_source_options(text, asking, is_alone=is_alone)
        from resx.scoring.evaluation.loaded_subjects import open_run

        return Opened(subject=open_run(path), run=path)
    name, version = ("", None) if names_onnx_file(text) else _published(text)
    if name and (asking.server.url or name in repository.names()):
        _require_no_source_options(text, asking, is_alone=is_alone)
        from resx.scoring.evaluation.published_subjects import open_served, open_version

        if asking.server.url:
            served = open_served(asking.server.address(), name, version, in_flight=_IN_FLIGHT, retries=asking.retries)
            return Opened(subject=held.enter_context(served))
        folder = repository.version_folder(name, version)
        return Opened(subject=open_version(repository, name, int(folder.name)), run=_run_of(folder))
    if name and text not in VARIANTS and not path.is_dir():
        near = nearest(name, [*repository.names(), *VARIANTS])
        raise UsageError(f"{text!r}: no run, .onnx file, variant or model of {repository.root}{near}")
    return _load(text, asking, is_alone=is_alone)


def _published(text: str) -> tuple[str, int | None]:
    """Return the name and version of a published model; an empty name for what cannot be one."""
    if "/" in text:
        return "", None
    try:
        return parse_name(text)
    except UsageError:  # torchvision:NAME
        return "", None


def _load(text: str, asking: Asking, *, is_alone: bool) -> Opened:
    from resx.scoring.evaluation.loaded_subjects import open_source
    from resx.zoo.catalog import kind_of

    source = asking.source
    if not is_alone:  # the other model may be what an option is for
        if kind_of(text) == "onnx":
            source = replace(source, weights="none", weights_entry="", settings=None)
        else:
            source = replace(source, mean="", std="", labels="", output_name="")
    return Opened(subject=open_source(source.arguments(text, seed=asking.seed)))


def _require_no_source_options(text: str, asking: Asking, *, is_alone: bool) -> None:
    if is_alone and asking.source != SourceOptions():
        raise UsageError(f"{text}: has its own weights, image size and labels; remove the options of Source")


def _run_of(version_folder: Path) -> Path | None:
    """Return the run that a version was exported from, if it is still there."""
    from resx.card import card as cards
    from resx.export.request import source_base
    from resx.zoo.spec import SPEC_FILE

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
