"""Export into a repository: the one place where the two meet. Imports torch when called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.card import card as cards
from resx.errors import UsageError
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.versions import Published, Repository

if TYPE_CHECKING:
    from resx.card.card import Card
    from resx.export.options import ExportOptions
    from resx.export.reference import Exportable
    from resx.export.request import ExportRequest
    from resx.export.tensorrt.builder import EngineOptions

_VERSION = {None: "an ONNX file", "tensorrt": "a TensorRT plan", "tensorrt_rtx": "an engine of TensorRT for RTX"}
_VERSIONS = {None: "ONNX files", "tensorrt": "TensorRT plans", "tensorrt_rtx": "engines of TensorRT for RTX"}


def export_into(
    repository: Repository,
    source: Exportable,
    options: ExportOptions,
    serving: ServingOptions,
    *,
    name: str,
    command: str,
    on_step: Callable[[str], None] = lambda _step: None,
) -> tuple[Card, Published]:
    """Export, verify and publish the next version of `name`; after any error the repository is as it was.

    Raises:
        UsageError: the name cannot be used, or its versions have another interface.
        ParityError, ExportError, ResxError: as `export_version`.
    """
    from resx.export.pipeline import export_version

    require_one_format(repository, name, builder=None)
    with repository.stage() as folder:
        card = export_version(source, options, folder, name=name, command=command, on_step=on_step)
        on_step("publish")
        return card, repository.publish(folder, card, serving)


def publish_request(
    repository: Repository,
    request: ExportRequest,
    serving: ServingOptions,
    *,
    name: str,
    command: str,
    on_step: Callable[[str], None] = lambda _step: None,
) -> tuple[Card, Published]:
    """Load what a request names, export, verify and publish it, and keep it for the next export of the same.

    Raises:
        UsageError: something named cannot be used, or the name's versions have another interface.
        MissingCapability: published weights could not be downloaded, or a package or processor feature is missing.
        ParityError, ExportError, ResxError: as `export_version`.
    """
    from resx.export import export_cache
    from resx.export.request import key_of, prepare

    source, options = prepare(request, on_step)
    card, version = export_into(repository, source, options, serving, name=name, command=command, on_step=on_step)
    if key := key_of(request):
        export_cache.keep(key, version.folder)
    return card, version


def publish_earlier(
    repository: Repository, request: ExportRequest, serving: ServingOptions, *, name: str, command: str
) -> tuple[Card, Published] | None:
    """Publish what an earlier export of the same request made; None where there is none.

    Raises:
        UsageError: the name cannot be used, or its versions have another interface.
    """
    from resx.export import export_cache
    from resx.export.request import key_of

    key = key_of(request)
    found = None if key is None else export_cache.find(key)
    return None if found is None else publish_kept(repository, found, serving, name=name, command=command)


def publish_kept(
    repository: Repository, kept: tuple[Path, Card], serving: ServingOptions, *, name: str, command: str
) -> tuple[Card, Published]:
    """Publish an export that was made before; if the newest version is that already, and served so, return it.

    Raises:
        UsageError: the name cannot be used, or its versions have another interface.
    """
    require_one_format(repository, name, builder=None)
    folder, made = kept
    card = made.model_copy(update={"name": name, "command": command})
    newest = repository.newest(name)
    if newest is not None and repository.is_served_so(name, card, serving):
        there = repository.card(name)
        if there.files == card.files:
            repository.renew_endpoints(card, serving)
            return there, newest
    with repository.stage() as staged:
        for file in card.files:
            shutil.copyfile(folder / file, staged / file)
        (staged / cards.FILE_NAME).write_text(cards.write_card(card))
        return card, repository.publish(staged, card, serving)


def export_engine_into(
    repository: Repository,
    source: Exportable,
    options: ExportOptions,
    engine: EngineOptions,
    trt: Any,
    serving: ServingOptions,
    *,
    name: str,
    command: str,
    on_step: Callable[[str], None] = lambda _step: None,
) -> tuple[Card, Published]:
    """Export, build an engine, verify and publish it as the next version of `name`, as `export_into` does.

    Raises:
        UsageError: the name cannot be used, its versions have another interface or are no such engines.
        ParityError, ExportError, ResxError: as `export_engine`.
    """
    from resx.export.tensorrt.engine_export import export_engine

    require_one_format(repository, name, builder=trt.__name__)
    with repository.stage() as folder:
        card = export_engine(source, options, engine, trt, folder, name=name, command=command, on_step=on_step)
        on_step("publish")
        return card, repository.publish(folder, card, serving)


def require_one_format(repository: Repository, name: str, *, builder: str | None) -> None:
    """Check that all versions of a model are files of one kind: config.pbtxt names one backend for all.

    Args:
        repository: where it is to be published.
        name: of the model.
        builder: of the engine; None: it is an ONNX file.

    Raises:
        UsageError: the name cannot be published, or its versions are of another kind.
    """
    repository.require_publishable(name)
    if not repository.versions(name):
        return
    engine = repository.card(name).engine
    there = None if engine is None else engine.builder
    if there != builder:
        raise UsageError(
            f"{name}: its versions are {_VERSIONS[there]}, this is {_VERSION[builder]}; choose another --name"
        )
