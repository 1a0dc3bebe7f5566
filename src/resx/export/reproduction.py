"""Run a card's export again and compare the bytes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from resx.card.card import Card
from resx.card.origin import SourceArguments
from resx.errors import UsageError
from resx.export.request import prepare, request_of, source_base
from resx.values import FrozenModel


class Reproduction(FrozenModel):
    """What came of it."""

    name: str
    sha256_recorded: str
    sha256_made: str
    """Of the ONNX file; an engine is built from one, and its own bytes hold measurements of time."""
    changed_tools: dict[str, tuple[str, str]]
    """Version then and now, of what is another version today; empty for what is not there."""
    source_changed: bool
    """Whether the weights are others than those that were exported."""

    @property
    def is_identical(self) -> bool:
        """Whether the bytes are the same."""
        return self.sha256_recorded == self.sha256_made


def reproduce(
    card: Card, source: SourceArguments, version_folder: Path, on_step: Callable[[str], None]
) -> Reproduction:
    """Export again as the card says, into a folder that is deleted; `source` is what it names (`card.named_source`).

    Raises:
        UsageError: the card lacks the hash of its file, or its source is not found (`request.source_base`).
        ParityError, ResxError: as the export itself.
    """
    from resx.export.pipeline import MODEL_FILE, export_version

    if card.unproved:
        raise UsageError(f"{card.name}: {card.unproved}, so there is no result to compare with; export it again")
    with (
        contextlib.chdir(source_base(card, source, version_folder)),
        tempfile.TemporaryDirectory(prefix="resx-") as folder,
    ):
        loaded, options = prepare(request_of(card, source), on_step)
        again = export_version(loaded, options, Path(folder), name=card.name, command=card.command, on_step=on_step)
    recorded = card.files[MODEL_FILE] if card.engine is None else card.engine.onnx_sha256
    tools = {
        name: (card.tools.get(name, ""), again.tools.get(name, ""))
        for name in sorted({*card.tools, *again.tools})
        if card.tools.get(name) != again.tools.get(name)
    }
    return Reproduction(
        name=card.name,
        sha256_recorded=recorded,
        sha256_made=again.files[MODEL_FILE],
        changed_tools=tools,
        source_changed=loaded.description.weights_sha256 != card.source.weights_sha256,
    )
