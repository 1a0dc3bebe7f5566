"""How many requests of a served version are resx's own self-tests, which `resx status` leaves out.

Triton counts every request alike. So the supervisor notes in `self_tests.json` how many requests each version had
answered when it was deployed or loaded again, and adds each self-test that it sends afterwards. While it sends one it
says so: nobody can tell whether Triton has counted that one yet.

What other commands send (`resx verify --url`, `resx bench`) are requests like any other.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pydantic

from resx.errors import ResxError
from resx.files.own_folders import read_state_file
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NotLoaded
from resx.serving.running import state_folders
from resx.values import FrozenModel

FILE = "self_tests.json"
_SETTLES_S, _LOOK_AGAIN_S = 2.0, 0.02
"""How long a look waits for a self-test to end, and for a new version to be noted."""

Found = TypeVar("Found")
Key = tuple[str, int]
"""A model and a version."""


class SelfTests(FrozenModel, extra="ignore"):
    """What the supervisor noted."""

    answered: dict[str, dict[int, int]]
    """Requests to leave out, by model and version."""
    testing: str = ""
    """The model whose self-test is under way."""


class SelfTestLedger:
    """The supervisor's side."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        """Begin with no version, in the state folder of the repository's server."""
        self._path, self._repository = folder / FILE, repository
        self._answered: dict[Key, int] = {}
        self._deployed: dict[Key, tuple[tuple[int, int], ...]] = {}
        self._changed_ns = 0
        self._write()

    def keep_up(self, client: TritonClient, watched: Iterable[Key]) -> None:
        """Begin anew with the versions that were deployed since the last look; forget those that are gone."""
        keys, changed_ns = set(watched), self._last_change_ns()
        if keys == self._answered.keys() and changed_ns == self._changed_ns:
            return
        for key in self._answered.keys() - keys:
            self.forget(key)
        for key in keys:
            if (when := self._when_deployed(key[0])) == self._deployed.get(key):
                continue
            try:
                self._answered[key] = num_answered(client, *key)
            except NotLoaded:
                continue
            except ResxError:  # the server is gone or hangs, which the self-tests find out
                break
            self._deployed[key] = when
        self._changed_ns = changed_ns
        self._write()

    def forget(self, key: Key) -> None:
        """Forget a version: it is not served, or will be loaded again."""
        self._answered.pop(key, None)
        self._deployed.pop(key, None)

    @contextlib.contextmanager
    def testing(self, client: TritonClient, key: Key, num_requests: int) -> Iterator[None]:
        """Count a self-test of so many requests, if it is answered."""
        with contextlib.suppress(ResxError):
            if (answered := num_answered(client, *key)) < self._answered.get(key, 0):  # somebody loaded it again
                self._answered[key] = answered
        self._write(testing=key[0])
        try:
            yield
            if key in self._answered:
                self._answered[key] += num_requests
        finally:
            self._write()

    def _last_change_ns(self) -> int:
        try:
            return (self._path.parent / state_folders.DEPLOYED).stat().st_mtime_ns
        except OSError:
            return 0

    def _when_deployed(self, name: str) -> tuple[tuple[int, int], ...]:
        """Return what changes when the model or its image endpoint is deployed: the one is asked through the other."""
        found = []
        owner = self._repository.owner(name)
        for part in (owner, *self._repository.endpoints(owner)):
            with contextlib.suppress(OSError):  # undeployed just now
                record = (self._path.parent / state_folders.DEPLOYED / part).stat()
                found.append((record.st_ino, record.st_mtime_ns))
        return tuple(found)

    def _write(self, testing: str = "") -> None:
        """Write the file; whoever reads half of it looks again. What cannot be written leaves nothing out of date."""
        by_model: dict[str, dict[int, int]] = {}
        for (name, version), answered in self._answered.items():
            by_model.setdefault(name, {})[version] = answered
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(self._path, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(SelfTests(answered=by_model, testing=testing).model_dump_json())
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def num_answered(client: TritonClient, name: str, version: int) -> int:
    """Return how many requests a version has answered since it was loaded."""
    statistics = [entry["inference_stats"] for entry in client.statistics(name, version)]
    return sum(int(entry.get("success", {}).get("count", 0)) for entry in statistics)


def look_beside(
    folder: Path, name: str, versions: Iterable[int], look: Callable[[], Found]
) -> tuple[Found, dict[int, int] | None]:
    """Look at a model's statistics while none of its self-tests is under way.

    Args:
        folder: the state folder of its server.
        name: the model's.
        versions: those that the server watches.
        look: asks for the statistics.

    Returns:
        What was found, and how many of the requests are resx's own, by version; None if nothing says.
    """
    wanted, deadline = set(versions), time.monotonic() + _SETTLES_S
    while True:
        before = _read(folder)
        found = look()
        after = _read(folder)
        noted = before.answered.get(name) if before else None
        is_known = noted is not None and wanted <= noted.keys()
        is_testing = any(notes is not None and notes.testing == name for notes in (before, after))
        is_same = after is not None and after.answered.get(name) == noted
        if (is_known and is_same and not is_testing) or time.monotonic() >= deadline:
            return found, noted
        time.sleep(_LOOK_AGAIN_S)


def _read(folder: Path) -> SelfTests | None:
    try:
        return SelfTests.model_validate_json(read_state_file(folder / FILE))
    except (OSError, ResxError, pydantic.ValidationError):
        return None
