"""What `resx compare` is given, as the source of an export: a published model is exported again from its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.source import SourceOptions
from resx.errors import UsageError
from resx.names import parse_name

if TYPE_CHECKING:
    from resx.card.origin import SourceArguments
    from resx.repository.versions import Repository


def find_source(text: str, options: SourceOptions, repository: Repository, *, seed: int) -> tuple[SourceArguments, str]:
    """Return what is exported, and its usual name in a repository.

    A published model goes before a variant of the same name, unless options say where weights come from.

    Raises:
        UsageError: it is nothing that can be exported, or its card names no source that can be loaded again.
    """
    from resx.card.card import FILE_NAME, named_source
    from resx.zoo.catalog import default_name, module_of, names_onnx_file
    from resx.zoo.spec import SPEC_FILE

    is_path = "/" in text or (Path(text) / SPEC_FILE).is_file() or names_onnx_file(text)
    name = "" if is_path else text.partition(":")[0]
    if not name or options != SourceOptions() or name not in repository.names():
        return options.arguments(text, seed=seed), default_name(text)
    name, version = parse_name(text)
    folder = repository.version_folder(name, version)
    card = repository.card(name, int(folder.name))
    arguments = card.source.arguments
    if arguments is not None and module_of(arguments.source):
        raise UsageError(f"{text}: was exported from {arguments.source}, which is code; name that in its place")
    return named_source(card, [], named_in=folder / FILE_NAME), name
