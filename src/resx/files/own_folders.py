"""The folders that resx keeps things in: its cache and its state, of this user alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from resx.errors import UsageError
from resx.files.home import say_where, settle_home
from resx.files.private_folders import make_private_folder, private_folder, read_private, require_private_tree

_OWN_CACHE = "set RESX_CACHE to a folder of your own"

_OWN_STATE = "set RESX_STATE to a folder of your own"


def cache_folder(*below: str) -> Path:
    """Return the folder for downloads (RESX_CACHE, or the user's cache folder), or one below. It may not exist yet.

    Raises:
        UsageError: somebody else can write in it, or replace it: programs are run out of it.
    """
    return private_folder(_cache_top(), below, remedy=_OWN_CACHE)


def make_cache_folder(*below: str) -> Path:
    """Return the cache folder, or one below, made if need be.

    Raises:
        UsageError: somebody else can write in it, or replace it.
    """
    return make_private_folder(_cache_top(), below, remedy=_OWN_CACHE, mode=0o755)


def require_own_cache(path: Path) -> None:
    """Check a file of the cache, or everything below a folder of it, before it is used; it may be missing.

    Raises:
        UsageError: somebody else can have written one of the files, or it is a link.
    """
    with contextlib.suppress(FileNotFoundError):
        require_private_tree(path, remedy=_OWN_CACHE)


def state_folder(*below: str) -> Path:
    """Return the folder for running servers' state and logs (RESX_STATE, or the user's), or one below.

    It may not exist yet.

    Raises:
        UsageError: somebody else can write in it, or replace it: processes that it names are signalled.
    """
    return private_folder(_state_top(), below, remedy=_OWN_STATE)


def make_state_folder(*below: str) -> Path:
    """Return the state folder, or one below, made if need be, for the user's eyes only.

    Raises:
        UsageError: somebody else can write in it, or replace it.
    """
    return make_private_folder(_state_top(), below, remedy=_OWN_STATE)


def read_state_file(path: Path) -> bytes:
    """Return what a file in the state folder holds.

    Raises:
        UsageError: somebody else can write it, or it is a link.
        OSError: it is not there, or cannot be read.
    """
    return read_private(path, remedy=_OWN_STATE)


def _cache_top() -> Path:
    return _given("RESX_CACHE") or _in_home(platformdirs.user_cache_path, _OWN_CACHE)


def _state_top() -> Path:
    return _given("RESX_STATE") or _in_home(platformdirs.user_state_path, _OWN_STATE)


def _given(variable: str) -> Path | None:
    remedy = f"set {variable} to another"
    return _require_text(Path(os.environ[variable]), remedy) if os.environ.get(variable) else None


def _in_home(place: Callable[[str], Path], remedy: str) -> Path:
    settle_home()
    folder = _require_text(place("resx"), remedy)
    say_where(folder)
    return folder


def _require_text(folder: Path, remedy: str) -> Path:
    """Return the absolute path, unless JSON could not hold it."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{folder.absolute()}: has bytes that are not UTF-8; {remedy}, with a UTF-8 path") from None
    return folder.absolute()
