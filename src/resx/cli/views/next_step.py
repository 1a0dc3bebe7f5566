"""The command that comes after a result: it works as it is printed, where the first one was typed."""

from __future__ import annotations

from pathlib import Path

from resx.cli.marks import command_line
from resx.repository.versions import Repository

_USUAL = Path("model_repository")


def in_repository(root: Path, url: str = "") -> list[str]:
    """Return the options that lead to the same repository and server; none where both are the usual ones."""
    repository = [] if root == _USUAL else ["--repository", str(root)]
    return [*repository, *(["--url", url] if url else [])]


def to_serve(name: str, repository: Repository) -> str:
    """Return the command that gets a published model served: by a new server, or by the one that runs."""
    from resx.serving.running.server_state import running_server

    place = in_repository(repository.root)
    if running_server(repository) is None:
        return command_line("serve", "--detach", *place)
    return command_line("deploy", name, *place)


def to_measure(name: str, root: Path, url: str = "") -> str:
    """Return the command that measures a served model."""
    return command_line("bench", name, *in_repository(root, url))
