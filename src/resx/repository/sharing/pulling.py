"""Fetch a shared run or version, check every byte against its hashes, and put it where exports and runs are.

What is fetched is a stranger's. Only the files that a card or manifest names are taken, and only as data: weights are
safetensors or ONNX, descriptions JSON. Configuration for the server is written from the card, never taken along.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydantic

from resx.card import card as cards
from resx.errors import UsageError
from resx.files.json_faults import explain_fault
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import publish_folder, staging_folder
from resx.names import checked_name
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import publish_kept
from resx.repository.sharing.bundle import MANIFEST, PERHAPS, RUN_FILES, Kind, require_hash
from resx.repository.sharing.places import FolderPlace, HubPlace
from resx.repository.versions import Repository
from resx.training.runs.run_origin import read_config
from resx.values import FrozenModel
from resx.zoo.spec import SPEC_FILE, read_spec


class RunManifest(FrozenModel):
    """`resx.json` of a shared run."""

    kind: str
    name: str
    files: dict[str, str]
    """SHA-256 by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """What was fetched, and where it is."""

    kind: Kind
    name: str
    version: int | None
    """None for a run."""
    folder: Path
    files: tuple[str, ...]
    """Whose hashes were checked."""


def pull(
    place: FolderPlace | HubPlace,
    repository: Repository,
    *,
    name: str = "",
    runs: Path = Path("runs"),
    on_step: Callable[[str], None] = lambda _step: None,
) -> Pulled:
    """Fetch a version into the repository as the next of its name, or a run into a new folder below `runs`.

    Args:
        place: of the Hub, or a folder.
        repository: where a version goes.
        name: empty: the shared one's.
        runs: where a run goes.
        on_step: told what comes next.

    Raises:
        ParityError: a file's bytes are not those of the card.
        UsageError: nothing of resx is there, it is an engine, or its name is taken by something else.
        MissingCapability: the Hub does not answer.
    """
    on_step("read what is there")
    names = place.names()
    if cards.FILE_NAME in names:
        return _pull_version(place, repository, name, on_step)
    if MANIFEST in names:
        return _pull_run(place, runs, name, on_step)
    raise UsageError(
        f"{place.url}: has neither {cards.FILE_NAME} nor {MANIFEST}; give what `resx push` wrote, or export weights of "
        "timm with `resx export hf:ORG/NAME`"
    )


def _pull_version(
    place: FolderPlace | HubPlace, repository: Repository, name: str, on_step: Callable[[str], None]
) -> Pulled:
    with _fetching() as fetched:
        place.fetch(cards.FILE_NAME, fetched)
        card = cards.read_card(fetched)
        wanted = checked_name(name or card.name)
        if card.engine is not None:
            raise UsageError(f"{place.url}: is a TensorRT engine, for its own GPU only; pull an ONNX export")
        if card.unproved:
            raise UsageError(f"{place.url}: {card.unproved}, so nothing proves the file; ask for a new export")
        repository.require_publishable(wanted)
        _fetch_checked(place, card.files, fetched, cards.FILE_NAME, on_step)
        _require_self_contained(fetched / card.model_file, card)
        on_step("publish")
        _, version = publish_kept(repository, (fetched, card), ServingOptions(), name=wanted, command=card.command)
    return Pulled(kind="version", name=wanted, version=version.version, folder=version.folder, files=tuple(card.files))


def _pull_run(place: FolderPlace | HubPlace, runs: Path, name: str, on_step: Callable[[str], None]) -> Pulled:
    with _fetching() as fetched:
        place.fetch(MANIFEST, fetched)
        manifest = _read_manifest(fetched / MANIFEST, place)
        wanted = checked_name(name or manifest.name)
        target = runs / wanted
        if target.exists():
            raise UsageError(f"{target}: exists already; choose another --name")
        _fetch_checked(place, manifest.files, fetched, MANIFEST, on_step)
        read_spec(fetched / SPEC_FILE)
        read_config(fetched)
        runs.mkdir(parents=True, exist_ok=True)
        with staging_folder(runs) as staged:
            for file in manifest.files:
                shutil.copyfile(fetched / file, staged / file)
            publish_folder(staged, target)
    return Pulled(kind="run", name=wanted, version=None, folder=target, files=tuple(manifest.files))


def _fetch_checked(
    place: FolderPlace | HubPlace, hashes: dict[str, str], folder: Path, said_by: str, on_step: Callable[[str], None]
) -> None:
    for file, expected in hashes.items():
        on_step(f"fetch {file}")
        place.fetch(file, folder)
        require_hash(folder / file, expected, said_by=said_by)


@contextlib.contextmanager
def _fetching() -> Iterator[Path]:
    """Give a folder to fetch into, which is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="resx-pull-") as folder:
        yield Path(folder)


def _read_manifest(path: Path, place: FolderPlace | HubPlace) -> RunManifest:
    content = read_bounded(path, MAX_TEXT_BYTES)
    try:
        manifest = RunManifest.model_validate_json(content)
    except pydantic.ValidationError as error:
        raise UsageError(f"{place.url}: {MANIFEST}: {explain_fault(error, content, 'push the run again')}") from error
    if manifest.kind != "run" or set(manifest.files) - {PERHAPS} != set(RUN_FILES):
        raise UsageError(f"{place.url}: {MANIFEST} does not list a run's files, {', '.join(RUN_FILES)}; push it again")
    return manifest


def _require_self_contained(path: Path, card: cards.Card) -> None:
    """Check that the weights that an .onnx file names are among the files whose hashes were checked.

    Raises:
        UsageError: they are not, or the file cannot be read.
    """
    if path.suffix != ".onnx":
        return
    from resx.runtimes.onnx_reader import files_of

    if others := {file.name for file in files_of(path)} - set(card.files):
        raise UsageError(f"{path.name}: takes weights from {', '.join(sorted(others))}, which its card does not list")
