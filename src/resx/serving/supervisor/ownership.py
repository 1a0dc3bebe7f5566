"""One supervisor per repository: it owns the state folder while it lives, and leaves by one way whatever ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from resx.files.locks import exclusive, require_lockable
from resx.repository.versions import Repository
from resx.serving.embedded.triton_process import remove_remains
from resx.serving.running import server_state as states
from resx.serving.running import state_folders, version_records
from resx.serving.running.start_marks import OWNER, announce


@contextlib.contextmanager
def own(repository: Repository) -> Iterator[tuple[Path, dict[str, tuple[int, ...]], dict[str, str]]]:
    """Hold the lock of the repository's state folder; give it, and what a killed supervisor had deployed and set aside.

    What such a supervisor left behind, processes and shared memory, is removed.

    Raises:
        UsageError: another supervisor holds it, or the folder cannot be written.
        CannotLock: its file system has no locks, or the repository's has none.
    """
    require_lockable(repository.root)  # deploying needs it, model by model
    folder = state_folders.make_folder(repository)
    with _lock(repository, folder), announce(folder, OWNER):
        dead = states.read_state(folder)
        left = version_records.read_deployed(repository) if dead and dead.phase != "draining" else {}
        if dead:
            remove_remains(dead.server_pid, dead.pid, dead.http_port, start_ticks=dead.server_start_ticks)
        for name in (states.STATE, states.ENDED):
            (folder / name).unlink(missing_ok=True)
        known = {name: repository.versions(name) for name in left}
        kept = {name: there for name in left if (there := _kept(left[name], known[name]))}
        yield folder, kept, dead.set_aside if dead else {}


def _lock(repository: Repository, folder: Path) -> contextlib.ExitStack:
    held = contextlib.ExitStack()
    for tries_left in range(20, -1, -1):  # others take the lock for an instant, to see whether it is free
        try:
            held.enter_context(exclusive(folder, wait=False))
            break
        except BlockingIOError:
            if not tries_left:
                raise states.served_already(repository, states.read_state(folder)) from None
            time.sleep(0.02)
    return held


def _kept(versions: Sequence[int], known: Sequence[int]) -> tuple[int, ...]:
    return tuple(version for version in versions if version in known)
