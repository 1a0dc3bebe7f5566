"""The commands that come after more than one result: they work where the first one was typed."""

from __future__ import annotations

from resx.cli.command_lines import command_line, in_repository, typed_again
from resx.repository.versions import Repository


def to_serve(name: str, repository: Repository, version: int | None = None) -> str:
    """Return the command that gets a published model served: by a new server, or by the one that runs."""
    from resx.serving.running.server_state import running_server

    place = in_repository(repository.root)
    if running_server(repository) is None:
        return command_line("serve", "--detach", *place)
    return command_line("deploy", name, *(["--version", str(version)] if version else []), *place)


def to_apply() -> str:
    """Return the command that was typed, without --dry-run."""
    return typed_again(without="--dry-run")
