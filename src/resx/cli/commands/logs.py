"""`resx logs`."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.output import OutputOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.cli.results.servers import Log
    from resx.repository.versions import Repository


def logs(
    printing: OutputOptions,
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, metavar="N", help="Lines from the end.")] = 50,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", metavar="", help="Follow until the server stops, or Ctrl-C.")
    ] = False,
) -> None:
    """Print the end of the log of Triton and its supervisor, even after the server has stopped.

    Example: resx logs -f -n 100
    """
    from resx.repository.versions import Repository
    from resx.serving.running import logs as files
    from resx.serving.running.server_state import LOG
    from resx.serving.running.state_folders import folder_of

    published = Repository(repository)
    log = folder_of(published) / LOG
    if follow and printing.json:
        raise UsageError("--json and --follow: give one of them")
    if not log.exists():
        raise UsageError(f"{repository}: no server has run for this repository; start one with `resx serve`")
    position = log.stat().st_size
    tail = files.last_lines(log, lines)
    if printing.json:
        payload: Log = {"log": str(log), "lines": tail}
        printing.open().result(payload, lambda _console: None)
        return
    sys.stdout.write("".join(f"{line}\n" for line in tail))
    sys.stdout.flush()
    if follow:
        _follow(published, log, position)


def _follow(repository: Repository, log: Path, position: int) -> None:
    from resx.serving.running import logs as files
    from resx.serving.running.server_state import running_server

    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a block may end within a character
    try:
        for block in files.follow(log, position, lambda: running_server(repository) is None):
            sys.stdout.write(decoder.decode(block))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return
