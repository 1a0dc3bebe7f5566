"""Try a version on the server under a name that no client knows, before it answers under its own.

Triton sends a request that names no version to the newest one that is loaded. A version that is loaded under its
name to be checked would so answer clients before the check. Its files are therefore sent with the load request
(`file:` overrides of Triton's repository extension, which make a model that the repository need not have), as
the only version of a model named `~NAME`: no published model's name can begin so.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from resx.errors import ResxError, ServerError, UsageError
from resx.files.disk_space import why_no_room
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Published
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NotLoaded
from resx.serving.deployment import version_pinning

MAX_BYTES = 1_900_000_000
"""gRPC's messages end at 2 GiB."""
_UNLOAD_S = 30.0


_SENT_TO = Path("/tmp")  # noqa: S108
"""Where Triton 2.51 puts files that come with a request, whatever TMPDIR says."""


def rehearsal_name(name: str) -> str:
    """Return the name under which a model's next version is tried."""
    return f"~{name}"


@contextlib.contextmanager
def rehearse(client: TritonClient, version: Published) -> Iterator[str]:
    """Have a version loaded under the name that is given, with one instance; it is gone at the end.

    Raises:
        UsageError: its files are too large to be sent.
        ServerError: the server refuses it.
    """
    alias = rehearsal_name(version.name)
    try:
        client.load(alias, version_pinning.rehearsal_json(version, alias), version_files(version))
        yield alias
    finally:
        with contextlib.suppress(ResxError):
            forget_rehearsal(client, version.name)


def require_room(version: Published) -> None:
    """Check that a server on this machine finds room for the files of a version; what it cannot write it loads in part.

    Raises:
        UsageError: the files are too large to be sent.
        ResxError: the disk is full.
    """
    size = sum(path.stat().st_size for path in _paths(version))
    reason = why_no_room(_SENT_TO)
    if not reason and (free := shutil.disk_usage(_SENT_TO).free) < size:
        reason = f"{size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
    if reason:
        raise ResxError(
            f"{_SENT_TO}: {reason}; Triton puts {version} there to test it: free some space, or use --no-rehearsal"
        )


def forget_rehearsal(client: TritonClient, name: str) -> None:
    """Unload what a rehearsal loaded, be it that of a killed command. Triton's index never lists it.

    Raises:
        ServerError: it is still there after half a minute.
    """
    alias, deadline = rehearsal_name(name), time.monotonic() + _UNLOAD_S
    with contextlib.suppress(NotLoaded):
        client.unload(alias)
    while client.is_model_ready(alias):
        if time.monotonic() > deadline:
            raise ServerError(f"{client.address}: {alias} was not unloaded within {_UNLOAD_S:g} s; unload it again")
        time.sleep(0.05)


def version_files(version: Published) -> dict[str, bytes]:
    """Return what the version's folder holds, and what lies beside config.pbtxt, by their paths in the model.

    Raises:
        UsageError: they are too large to be sent.
    """
    return {f"file:{path.relative_to(version.model_folder)}": path.read_bytes() for path in _paths(version)}


def _paths(version: Published) -> list[Path]:
    paths = [path for path in version.model_folder.iterdir() if path.is_file() and path.name != CONFIG_FILE]
    paths += [path for path in version.folder.rglob("*") if path.is_file()]
    if (size := sum(path.stat().st_size for path in paths)) > MAX_BYTES:
        raise UsageError(
            f"{version}: {size / 1e9:.1f} GB, and a rehearsal sends {MAX_BYTES / 1e9:g} at most; give --no-rehearsal"
        )
    return paths
