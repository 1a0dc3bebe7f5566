"""What lies in a repository and is no model: it is skipped, and named.

People, editors and file systems leave things there: `lost+found`, `.ipynb_checkpoints`, a README, a folder "na me".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from resx.files.staging import STAGING_PREFIX
from resx.names import is_model_name
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.repository.versions_in_use import MARK
from resx.text import one_line

_MOST = 10


def skipped_entries(repository: Repository) -> dict[str, str]:
    """Return what is skipped, by name, with the reason; what resx itself leaves there is not."""
    return dict(_skipped(repository))


def skipped_lines(skipped: dict[str, str]) -> list[str]:
    """Return that in words, a line for each reason."""
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names_by_reason.setdefault(reason, []).append(name)
    return [f"skipped, {reason}: {_listed(names)}" for reason, names in names_by_reason.items()]


def _looks_like_a_model(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return not folder.name.startswith(".") and (
            (folder / CONFIG_FILE).is_file() or any(folder.glob("[0-9]*/model.onnx"))
        )
    return False


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(f"'{name}'" for name in names[:_MOST]) + more


def _skipped(repository: Repository) -> Iterator[tuple[str, str]]:
    models = set(repository.names())
    for path in sorted(repository.root.iterdir()) if repository.root.is_dir() else ():
        if path.name in models or path.name.startswith((MARK, STAGING_PREFIX)) or repository.is_endpoint(path.name):
            continue
        if not is_model_name(path.name) and _looks_like_a_model(path):
            yield one_line(path.name), "rename it: a model's name has only letters, digits, '.', '_' and '-'"
        else:
            yield one_line(path.name), "not a model"
