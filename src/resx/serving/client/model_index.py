"""What a server says of the models in its own repository: which there are, which are ready, and why one is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resx.repository.interface import Unexpected, shorten

_UNLOADED = "unloaded"


def names_in(index: Mapping[str, Any]) -> set[str]:
    """Return all models of the server's repository, loaded or not."""
    return {str(entry.get("name", "")) for entry in index.get("models", [])}


def versions_in(index: Mapping[str, Any], state: str) -> dict[str, list[int]]:
    """Return the versions in one of Triton's states, by model.

    Raises:
        Unexpected: a version is no number.
    """
    found: dict[str, list[int]] = {}
    for entry in index.get("models", []):
        if entry.get("state") == state:
            version = entry.get("version", "")
            if not (version.isdecimal() and version.isascii() and len(version) < 19):
                raise Unexpected(f"a version {version!r} of {entry.get('name')}")
            found.setdefault(entry.get("name", ""), []).append(int(version))
    return {name: sorted(versions) for name, versions in sorted(found.items())}


def why_not_ready(index: Mapping[str, Any], model: str) -> str:
    """Return in words why a model of the repository does not answer; empty if nobody loaded it, or it is not there."""
    for entry in index.get("models", []):
        state, reason = entry.get("state"), shorten(entry.get("reason", ""))
        if entry.get("name") == model and state not in {None, "", "READY"} and reason != _UNLOADED:
            if state == "LOADING":
                return f"version {entry.get('version')} is still loading; try again when it is loaded"
            told = f"version {entry.get('version')} is {state}" + (f": {reason}" if reason else "")
            return f"{told}; retry with `resx deploy`"
    return ""
