"""Do one thing in a fresh process, which is gone with its memory and threads when it is done."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import TypeVar

from resx.errors import ResxError
from resx.streams import make_readable

_JobT = TypeVar("_JobT")
_FoundT = TypeVar("_FoundT")


def run_apart(
    work: Callable[[_JobT, Pipe], None], job: _JobT, found: type[_FoundT], what: str, most_s: float
) -> _FoundT:
    """Return what `work` sends through its pipe: a `found`, or one line that says why not.

    Args:
        work: a function of a module, which a spawned process can import.
        job: its argument, which can be pickled.
        found: what is expected.
        what: names the work in errors.
        most_s: after which it is given up.

    Raises:
        ResxError: it sent a line, ended without a word, or takes too long.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_begin, args=(work, job, theirs), daemon=True, name="resx-apart")
    process.start()
    theirs.close()
    try:
        if not ours.poll(most_s):
            raise ResxError(f"{what} did not finish; check whether the machine is overloaded")
        word = ours.recv()
    except (EOFError, OSError) as error:
        raise ResxError(f"{what} ended unexpectedly; check the free memory") from error
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(word, str):
        raise ResxError(f"{what}: {word}")
    assert isinstance(word, found)
    return word


def _begin(work: Callable[[_JobT, Pipe], None], job: _JobT, pipe: Pipe) -> None:
    make_readable()
    work(job, pipe)
