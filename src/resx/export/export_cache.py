"""Exports that were made before, under the hash of all they depend on: the same is not made twice.

    CACHE/exports/KEY/{model.onnx, card.json}

What is taken from here is hashed again first. The oldest go when all of them pass 8 GB, or as many as
RESX_EXPORT_CACHE_GB says; 0 keeps none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from resx.card import card as cards
from resx.card.card import Card
from resx.errors import UsageError
from resx.files.own_folders import cache_folder, make_cache_folder, require_own_cache
from resx.files.staging import close_to_others, publish_folder, remove_abandoned, sha256_of, staging_folder

LIMIT_VARIABLE = "RESX_EXPORT_CACHE_GB"
_DEFAULT_GB = 8.0
_FOLDER = "exports"
"""Of the cache."""


def find(key: str) -> tuple[Path, Card] | None:
    """Return the folder and card of an export made before; None if there is none, or it was damaged since.

    Raises:
        UsageError: somebody else can have written it.
    """
    if not _limit_bytes():
        return None
    folder = cache_folder(_FOLDER) / key
    require_own_cache(folder)
    try:
        card = cards.read_card(folder)
        whole = not card.unproved and all(sha256_of(folder / name) == expected for name, expected in card.files.items())
    except (OSError, UsageError):
        return None
    if not whole:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)  # the one used last goes last
    return folder, card


def keep(key: str, version: Path) -> None:
    """Keep a copy of a version's files. A full or read-only disk is no error: it is a copy."""
    limit = _limit_bytes()
    with contextlib.suppress(OSError):
        root = make_cache_folder(_FOLDER)
        remove_abandoned(root)
        size = _size(version)
        if size > limit or shutil.disk_usage(root).free < 2 * size:
            return
        shutil.rmtree(root / key, ignore_errors=True)
        with (
            staging_folder(root, mode=0o700) as staged,
            contextlib.suppress(UsageError),  # somebody else kept it meanwhile
        ):
            shutil.copytree(version, staged, dirs_exist_ok=True)
            close_to_others(staged)
            publish_folder(staged, root / key)
        _drop_oldest(root, limit)


def _drop_oldest(root: Path, limit: int) -> None:
    folders = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    total = 0
    for folder in folders:
        total += _size(folder)
        if total > limit:
            shutil.rmtree(folder, ignore_errors=True)


def _limit_bytes() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        gigabytes = float(text or _DEFAULT_GB)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise UsageError(f"{LIMIT_VARIABLE}={text}: give the size of the cache of exports in GB, 0 for none")
    return int(gigabytes * 1e9)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
