"""stdout and stderr as text that no terminal takes orders from, whoever writes it.

A file's name, a label, a card, a server's answer or a log may hold escape sequences. What resx prints itself goes
through `resx.cli.console`, which knows what rich adds; everything else that writes to `sys.stdout` or `sys.stderr`
(warnings, tracebacks, logging, another library's print, a log that is shown) comes through here. Native code that
writes to the file descriptor does not, so libraries that would print foreign words that way are told to be silent.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from resx.text import readable


class ReadableStream:
    """A text stream in front of another: control characters are shown escaped, but for line ends and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # rich's own name: every console of rich writes to what is behind
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; return its length."""
        self._stream.write(readable(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_readable() -> None:
    """Put a ReadableStream in the place of this process's stdout and stderr; a spawned process calls it too.

    What is written to one that was closed before the start goes nowhere.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process lives
        if not isinstance(stream, ReadableStream):
            setattr(sys, name, ReadableStream(stream))


@contextlib.contextmanager
def silence_library(*, logs: int = logging.WARNING, printing: Sequence[str] = ()) -> Iterator[None]:
    """Keep what a library written in Python prints to stdout, warns of and logs off the user's terminal.

    Args:
        logs: up to this level, of all loggers, as libraries have dozens.
        printing: modules whose prints go to stderr, which cannot be redirected: a spinner writes there meanwhile, from
            another thread.
    """
    modules, disabled = [importlib.import_module(name) for name in printing], logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logs)
        for module in modules:
            module.__dict__["print"] = lambda *_args, **_kwargs: None
        try:
            yield
        finally:
            logging.disable(disabled)
            for module in modules:
                del module.__dict__["print"]


@contextlib.contextmanager
def silence_descriptor(stream: TextIO) -> Iterator[None]:
    """Let nothing through to stdout or stderr, of threads and of native code neither."""
    stream.flush()
    number = 1 if stream is sys.stdout else 2
    kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, number)
        os.close(kept)
