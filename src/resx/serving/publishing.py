"""Export into a repository: the one place where the two meet. Imports torch when called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from resx.serving.repository import Published, Repository
from resx.serving.triton_config import ServingOptions

if TYPE_CHECKING:
    from resx.export.card import Card
    from resx.export.pipeline import ExportOptions
    from resx.export.source import LoadedSource


def export_into(
    repository: Repository, source: LoadedSource, options: ExportOptions, serving: ServingOptions, *,
    name: str, command: str, on_step: Callable[[str], None] = lambda _step: None,
) -> tuple[Card, Published]:  # fmt: skip
    """Export, verify and publish the next version of `name`; after any error the repository is as it was.

    Raises:
        UsageError: the name cannot be used, or its versions have another interface.
        ParityError, ExportError, ResxError: as `export_version`.
    """
    from resx.export.pipeline import export_version

    repository.require_publishable(name)
    with repository.stage() as folder:
        card = export_version(source, options, folder, name=name, command=command, on_step=on_step)
        on_step("publish")
        return card, repository.publish(folder, card, serving)
