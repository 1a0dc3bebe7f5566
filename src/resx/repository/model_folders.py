"""Look at the folders of a repository: an OSError while looking at a model belongs to that model, and to no other.

A disk, a mount, a mode or a link can be in the way of one folder or file. Whoever lists the repository gets every model
with what can be seen of it; what cannot be seen is a model without versions, and `why_unreadable` says why.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from resx.errors import reason_of
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.text import one_line, printable

_VERSION = re.compile(r"0|[1-9][0-9]{0,18}")
_MODEL_FILE = "model.onnx"
"""Speaks for itself, without a configuration."""
_NEXT = "repair it, or move the model's folder elsewhere"


def model_folders(root: Path) -> list[Path]:
    """Return the folders of a repository that are models, or that cannot be looked into, sorted.

    Raises:
        OSError: the repository itself cannot be listed.
    """
    return sorted(path for path in _visible(root) if _is_model(path))


def versions_in(folder: Path) -> list[int]:
    """Return the numbers of a model's version folders, oldest first; none where it cannot be looked into."""
    with contextlib.suppress(OSError):
        return sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name) and is_folder(path))
    return []


def is_folder(path: Path) -> bool:
    """Say whether there is a folder, or a link to one; what cannot be looked at is none."""
    with contextlib.suppress(OSError):
        return path.is_dir()
    return False


def is_file(path: Path) -> bool:
    """Say whether there is a regular file, or a link to one; what cannot be looked at is none."""
    with contextlib.suppress(OSError):
        return path.is_file()
    return False


def why_unreadable(folder: Path, versions: Collection[int] | None = ()) -> str:
    """Return what of a model's folder cannot be read and why, with the remedy; empty: all can be.

    Looked at is what belongs to every version, and the folders of these versions (None: of all): another one may be
    damaged.
    """
    try:
        _read_all(folder, None if versions is None else {str(version) for version in versions}, is_version=False)
    except OSError as error:
        is_gone = error.errno == errno.ENOENT and not os.path.lexists(folder)
        what = "no such folder" if is_gone else _reason(error)
        return one_line(f"{error.filename or folder}: {what}; {_NEXT}")
    return ""


def unlistable(root: Path) -> list[str]:
    """Return the names in a repository that keep Triton from listing any: they cannot be looked at, or are no UTF-8.

    Raises:
        OSError: the repository itself cannot be listed.
    """
    return sorted(path.name for path in root.iterdir() if not _is_listable(path))


def _is_listable(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.stat()
        return printable(path.name) == path.name
    return False


def _visible(root: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from (path for path in root.iterdir() if not path.name.startswith("."))


def _is_model(path: Path) -> bool:
    try:
        path.stat()
        inside = list(path.iterdir())
    except NotADirectoryError:
        return False
    except OSError:
        return True
    return any(
        one.name == CONFIG_FILE or (_VERSION.fullmatch(one.name) and os.path.lexists(one / _MODEL_FILE))
        for one in inside
    )


def _read_all(folder: Path, versions: Collection[str] | None, *, is_version: bool) -> None:
    """Open the files of a model's folder and of those in it, of versions only these; None: of all.

    Raises:
        OSError: something cannot be opened, is a link to nothing, or no regular file.
    """
    for path in sorted(folder.iterdir()):
        number = not is_version and _VERSION.fullmatch(path.name) is not None
        if number and versions is not None and path.name not in versions:
            continue
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        elif not stat.S_ISDIR(mode) or (path.name == CONFIG_FILE and not is_version):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        elif number or not path.is_symlink():
            _read_all(path, None, is_version=True)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "a broken link"
    return reason_of(error)
