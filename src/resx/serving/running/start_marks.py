"""Who starts a server, from before there is a `server.json`: what `resx stop` ends meanwhile.

    owner.json       the supervisor, from when it has the state folder's lock until it ends
    detaching.json   the `resx serve --detach` that waits for it, and takes it along when it is ended

A file of a process that was killed says nothing: its process is told from every other (`processes.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pydantic
from pydantic import Field

from resx.files.own_folders import read_state_file
from resx.files.staging import write_atomic
from resx.serving.running import processes
from resx.serving.running.processes import MAX_PID, Process
from resx.values import FrozenModel

OWNER, DETACHING = "owner.json", "detaching.json"


class _Record(FrozenModel, extra="ignore"):
    pid: int = Field(ge=1, le=MAX_PID)
    start_ticks: int = Field(ge=0)
    executable: str


@contextlib.contextmanager
def announce(folder: Path, file: str) -> Iterator[None]:
    """Let `resx stop` find this process while the block lasts."""
    this = processes.this_process()
    record = _Record(pid=this.pid, start_ticks=this.start_ticks, executable=this.executable)
    write_atomic(folder / file, record.model_dump_json() + "\n", mode=0o600)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / file).unlink(missing_ok=True)


def read_announced(folder: Path, file: str) -> Process | None:
    """Return the process that announced itself, if it lives."""
    try:
        found = _Record.model_validate_json(read_state_file(folder / file))
    except (OSError, pydantic.ValidationError):
        return None
    process = Process(pid=found.pid, start_ticks=found.start_ticks, executable=found.executable)
    return process if processes.lives(process) else None
