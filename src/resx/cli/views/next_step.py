"""The command that comes after a result: it works as it is printed, where the first one was typed."""

from __future__ import annotations

import sys
from pathlib import Path

from resx.cli.marks import command_line
from resx.repository.versions import Repository

_USUAL = Path("model_repository")


def in_repository(root: Path) -> list[str]:
    """Return the options that lead to the same repository; none for the usual one."""
    return [] if root == _USUAL else ["--repository", str(root)]


def to_serve(name: str, repository: Repository, version: int | None = None) -> str:
    """Return the command that gets a published model served: by a new server, or by the one that runs."""
    from resx.serving.running.server_state import running_server

    place = in_repository(repository.root)
    if running_server(repository) is None:
        return command_line("serve", "--detach", *place)
    return command_line("deploy", name, *(["--version", str(version)] if version else []), *place)


def to_apply() -> str:
    """Return the command that was typed without --dry-run; empty where it names a header, which may be a secret."""
    words = sys.argv[1:]
    if any(word.partition("=")[0] == "--header" for word in words):
        return ""
    return command_line(*(word for word in words if word != "--dry-run"))
