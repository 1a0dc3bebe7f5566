"""Where runs and versions are shared: a repository of the Hugging Face Hub, or a folder that stands in for one.

A place is listed, read and written through three methods, so what is sent and what is checked is the same for both.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from resx.errors import MissingCapability, UsageError
from resx.export.sources.hub_errors import explain_hub
from resx.files.reading import require_regular
from resx.files.staging import write_atomic
from resx.streams import silence_library
from resx.zoo.foreign_names import HUB, hub_folder, names_hub_repository

_FOLDER = "dir"
_WEBSITE = "https://huggingface.co"
_NO_TOKEN = "no Hub token was found; run `hf auth login`, or set HF_TOKEN to one that can write"  # noqa: S105


class Place(Protocol):
    """A repository of the Hub, or a folder."""

    @property
    def url(self) -> str:
        """Where people look at it."""
        ...

    def names(self) -> list[str]:
        """Return the files that are there."""
        ...

    def fetch(self, name: str, folder: Path) -> None:
        """Put a file that is there into a folder."""
        ...

    def send(self, folder: Path, names: Sequence[str], *, message: str, private: bool) -> None:
        """Put files of a folder there."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderPlace:
    """A folder."""

    path: Path

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.path)

    def names(self) -> list[str]:
        """Return the files that are there.

        Raises:
            UsageError: there is no such folder.
        """
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: no such folder; give one that `resx push` wrote, or hf:ORG/NAME")
        return sorted(path.name for path in self.path.iterdir() if path.is_file())

    def fetch(self, name: str, folder: Path) -> None:
        """Copy a file of it into a folder.

        Raises:
            UsageError: it is a link, a pipe or a device.
        """
        path = self.path / name
        if path.is_symlink():
            raise UsageError(f"{path}: is a link; copy the file itself")
        require_regular(path)
        shutil.copyfile(path, folder / name)

    def send(self, folder: Path, names: Sequence[str], *, message: str, private: bool) -> None:  # noqa: ARG002
        """Write files of a folder here, each whole.

        Raises:
            UsageError: something else is here.
        """
        there = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if self.path.exists() and (not self.path.is_dir() or there - set(names)):
            raise UsageError(f"{self.path}: has other files; choose a new folder")
        self.path.mkdir(parents=True, exist_ok=True)
        for name in names:
            write_atomic(self.path / name, (folder / name).read_bytes())


@dataclass(frozen=True, kw_only=True, slots=True)
class HubPlace:
    """A repository of the Hugging Face Hub."""

    repository: str
    """`ORG/NAME`."""
    revision: str = ""
    """A branch, tag or commit; empty: the main branch."""
    api: Any = None
    """The Hub's client; None: huggingface_hub's own."""

    def __str__(self) -> str:
        return f"{HUB}:{self.repository}{f'@{self.revision}' if self.revision else ''}"

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"{_WEBSITE}/{self.repository}"

    def names(self) -> list[str]:
        """Return the files that are there.

        Raises:
            UsageError: there is no such repository or revision, or it is gated.
            MissingCapability: the Hub does not answer.
        """
        found = self._ask("repo_info", revision=self.revision or None, remedy=self._fetched_elsewhere)
        return sorted(sibling.rfilename for sibling in found.siblings)

    def fetch(self, name: str, folder: Path) -> None:
        """Download a file of it into a folder.

        Raises:
            UsageError, MissingCapability: as `names`.
        """
        options = {"filename": name, "revision": self.revision or None, "local_dir": str(folder)}
        self._ask("hf_hub_download", **options, remedy=self._fetched_elsewhere)

    def send(self, folder: Path, names: Sequence[str], *, message: str, private: bool) -> None:
        """Upload files of a folder, as one commit; the repository is made if need be.

        Raises:
            UsageError: the Hub refuses, or a revision was named.
            MissingCapability: no token is here, or the Hub does not answer.
        """
        if self.revision:
            raise UsageError(f"{self}: a push goes to the main branch; remove @{self.revision}")
        if self.api is None and not _client().get_token():
            raise MissingCapability(f"{self}: {_NO_TOKEN}")
        remedy = "push to a folder, and `hf upload` that where there is a network"
        self._ask("create_repo", exist_ok=True, private=private, remedy=remedy)
        sent = {"folder_path": str(folder), "allow_patterns": list(names), "commit_message": message}
        self._ask("upload_folder", **sent, remedy=remedy)

    @property
    def _fetched_elsewhere(self) -> str:
        revision = f" --revision {self.revision}" if self.revision else ""
        command = f"hf download {self.repository}{revision} --local-dir DIR"
        return f"run `{command}` where there is a network, and `resx pull DIR` here"

    def _ask(self, method: str, *, remedy: str, **options: Any) -> Any:
        api = self.api or _client().HfApi()
        try:
            with silence_library():
                return getattr(api, method)(repo_id=self.repository, **options)
        except Exception as error:
            said = explain_hub(str(self), self.repository, self.revision, error, unreachable=remedy)
            if said is None:
                raise
            raise said from error


def parse_place(text: str) -> FolderPlace | HubPlace:
    """Return the place that was named: `hf:ORG/NAME`, `hf:ORG/NAME@REVISION`, `dir:PATH` or a path.

    Raises:
        UsageError: it is malformed.
    """
    kind, colon, name = text.partition(":")
    if (folder := hub_folder(text)) is not None:
        return FolderPlace(path=folder)
    if kind == HUB and colon:
        if not names_hub_repository(name):
            raise UsageError(f"{text}: give hf:ORG/NAME or hf:ORG/NAME@REVISION")
        repository, _, revision = name.partition("@")
        return HubPlace(repository=repository, revision=revision)
    path = name if kind == _FOLDER and colon else text
    if not path or re.match(r"[a-z]+://", path):
        raise UsageError(f"{text or 'PLACE'}: give hf:ORG/NAME or a folder")
    return FolderPlace(path=Path(path).expanduser())


def _client() -> Any:
    """Return the Hub's package.

    Raises:
        MissingCapability: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingCapability("huggingface_hub is not installed; pip install 'resx[hub]'") from error
    return huggingface_hub
