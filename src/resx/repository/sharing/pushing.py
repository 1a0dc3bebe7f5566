"""Send a run or a version to the Hub or a folder, or say what would be sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resx.repository.sharing.bundle import Bundle, gather
from resx.repository.sharing.places import FolderPlace, HubPlace
from resx.repository.versions import Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What was sent, or would be."""

    bundle: Bundle
    url: str
    sent: bool


def push(
    text: str,
    place: FolderPlace | HubPlace,
    repository: Repository,
    *,
    named_place: str,
    send: bool,
    private: bool = False,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Pushed:
    """Gather a run or a version, check its hashes, and send it if that is wanted.

    Args:
        text: a run's folder, or NAME or NAME:VERSION of the repository.
        place: of the Hub, or a folder.
        repository: where versions are.
        named_place: as the user named the place, for the model card.
        send: False only says what would be sent.
        private: whether a repository of the Hub that is made for it is private.
        on_step: told what comes next.

    Raises:
        UsageError: there is no such run or version, it cannot be shared, or the place refuses it.
        ParityError: a version's file is not what its card says.
        MissingCapability: no token is here, or the Hub does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="resx-push-") as folder:
        on_step("gather the files")
        bundle = gather(text, repository, Path(folder), place=named_place)
        if send:
            on_step(f"send to {named_place}")
            names = [file.name for file in bundle.files]
            place.send(Path(folder), names, message=f"{bundle.title}, by resx", private=private)
    return Pushed(bundle=bundle, url=place.url, sent=send)
