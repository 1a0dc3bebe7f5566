"""A home folder for a user who has none: what resx and its libraries keep must go somewhere.

Containers run under user ids that no passwd entry has, with HOME unset, `/` or a folder that was never made. Then
`expanduser` gives a folder that is called `~`, getpass raises in the middle of an import of torch, and caches fail one
by one. So HOME is settled once, before anything reads it, for this process and all that it starts: the one that is
set, the passwd entry's, or else a private folder in the temporary one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
import tempfile
from pathlib import Path

from resx.errors import UsageError
from resx.files.private_folders import make_private_folder

VARIABLES = "set HOME, or RESX_CACHE and RESX_STATE, to directories of yours"
_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""What getpass.getuser asks, before it asks the passwd file."""
_told: set[Path] = set()


def settle_home() -> None:
    """Set HOME, and a user's name, where the environment and the passwd file have none that can be used.

    Raises:
        UsageError: there is none, and none can be made: somebody else has the folder, or there is no temporary one.
    """
    user = _passwd()
    if not user and not any(os.environ.get(name) for name in _NAMES):
        os.environ["LOGNAME"] = f"uid-{os.geteuid()}"
    home = next((Path(known) for known in (os.environ.get("HOME", ""), user) if _is_usable(known)), None)
    if home is None:
        # Where resx's own folders are named nothing of resx's goes there, so it may be had or not.
        is_needed = not (os.environ.get("RESX_CACHE") and os.environ.get("RESX_STATE"))
        with contextlib.suppress(*() if is_needed else (UsageError,)):
            home = _temporary_home()
    if home is not None:
        os.environ["HOME"] = str(home)


def say_where(folder: Path) -> None:
    """Say on stderr, once, that a folder of ours lies in the temporary one and will not last."""
    home = Path(os.environ.get("HOME", "/"))
    if home in _told or home.name != _temporary_name() or not folder.is_relative_to(home):
        return
    _told.add(home)
    sys.stderr.write(f"no usable home folder: using {home}, which may be deleted at any time; {VARIABLES}\n")


def _temporary_home() -> Path:
    try:
        top = Path(tempfile.gettempdir()).absolute() / _temporary_name()
        return make_private_folder(top, (), remedy=VARIABLES)
    except OSError as error:  # no folder for temporary files, or it is full
        raise UsageError(f"no home folder and no temporary folder: {error.strerror or error}; {VARIABLES}") from error


def _temporary_name() -> str:
    return f"resx-home-{os.geteuid()}"


def _is_usable(home: str) -> bool:
    """Say whether caches can be kept below a folder: there is one already, or it can be made."""
    if not Path(home).is_absolute():
        return False
    with contextlib.suppress(OSError):
        path = Path(home) / ".cache"
        existing = next(known for known in (path, *path.parents) if known.exists())
        return existing == path or (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK))
    return False


def _passwd() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""
