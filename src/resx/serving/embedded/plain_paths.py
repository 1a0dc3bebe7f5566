"""Plain paths for Triton: links of resx's own, in a folder whose name resx chooses.

Triton 2.51 starts a Python process with `bash -c "exec STUB REPOSITORY/NAME/1/model.py ..."` and quotes nothing: a
space splits such a path, `;` ends the command, `$(...)` is run, and a letter outside ASCII is not found. A path is
plain if it has only the characters of `_PLAIN`; Triton gets no other one.

Links of a server lie in its state folder where that is plain and has room, and else in a private folder below a
temporary one. That one is locked while the server runs, which keeps systemd-tmpfiles away, and the next server of the
same user removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from resx.errors import UsageError
from resx.files.disk_space import why_no_room
from resx.files.private_folders import make_private_folder
from resx.files.staging import remove_abandoned, staging_folder
from resx.serving.embedded.installation.triton_installation import Installation

_PLAIN = re.compile(r"/[A-Za-z0-9._/-]+")
_REMEDY = "set TMPDIR to a folder of your own"


def is_plain(path: Path | str) -> bool:
    """Say whether Triton may be given a path."""
    return _PLAIN.fullmatch(str(path)) is not None


@contextlib.contextmanager
def links_folder(state_folder: Path) -> Iterator[Path]:
    """Give a folder with a plain path and room for a server's links; one outside the state folder goes at the end.

    Raises:
        UsageError: no path is plain.
        OSError: the disks of those that are have no room.
    """
    if is_plain(state_folder) and not why_no_room(state_folder):
        yield state_folder
        return
    with contextlib.ExitStack() as stack:
        yield _make_elsewhere(stack, state_folder)


def plain_installation(installation: Installation, links: Path) -> Installation:
    """Return the same server by plain paths, through a link in `links` if its own are not plain."""
    root = installation.server.parent.parent
    if is_plain(root):
        return installation
    link = links / "triton"
    link.unlink(missing_ok=True)
    link.symlink_to(root)
    return replace(
        installation,
        server=link / installation.server.relative_to(root),
        backends=link / installation.backends.relative_to(root),
        libraries=link / installation.libraries.relative_to(root),
        caches=link / installation.caches.relative_to(root),
    )


def _make_elsewhere(stack: contextlib.ExitStack, state_folder: Path) -> Path:
    reason = ""
    for place in _places():
        with contextlib.suppress(UsageError, OSError):
            parent = make_private_folder(place / f"resx-{os.geteuid()}", [], remedy=_REMEDY)
            remove_abandoned(parent)
            with contextlib.ExitStack() as trying:
                folder = trying.enter_context(staging_folder(parent, mode=0o700))
                reason = why_no_room(folder)
                if not reason:
                    stack.push(trying.pop_all())
                    return folder
    if reason:
        raise OSError(errno.ENOSPC, reason, str(state_folder))
    raise UsageError(
        f"{state_folder}: Triton needs a folder with free space whose path has only letters, digits, `.`, `_`, `-` and "
        f"`/`, and no temporary folder qualifies; {_REMEDY}, with such a path"
    )


def _places() -> Iterator[Path]:
    """Yield the folders to try; the runtime folder comes late, as it goes when the user logs out."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    given = (tempfile.gettempdir(), "/tmp", "/var/tmp", runtime, f"/run/user/{os.geteuid()}", "/dev/shm")  # noqa: S108
    yield from (Path(place) for place in dict.fromkeys(given) if is_plain(place))
