"""What is sent of a run or of a version: its files in one folder, with a model card.

    version   the files of its card, card.json, config.pbtxt, labels.txt, README.md
    run       weights, spec.json, training.json, metrics.jsonl if trained, README.md, resx.json with their hashes

A run's optimizer state, and the list of files that it was trained on, stay at home.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resx.card import card as cards
from resx.card.model_card import README, model_card
from resx.card.run_card import run_card
from resx.errors import ParityError, UsageError
from resx.files.staging import sha256_of
from resx.names import checked_name, parse_name
from resx.repository.config_pbtxt import CONFIG_FILE, LABELS_FILE
from resx.repository.versions import Repository
from resx.training.runs.run_metrics import METRICS, read_metrics
from resx.training.runs.run_origin import CONFIG, WEIGHTS, read_config
from resx.zoo.spec import SPEC_FILE, read_spec

MANIFEST = "resx.json"
RUN_FILES = (WEIGHTS, SPEC_FILE, CONFIG)
PERHAPS = METRICS
"""A run that `resx shrink` wrote, and nobody trained since, has none."""
Kind = Literal["run", "version"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleFile:
    """A file that is sent."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What is sent, all in one folder."""

    kind: Kind
    name: str
    title: str
    """For people: `digits version 3`."""
    files: tuple[BundleFile, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)


def gather(text: str, repository: Repository, folder: Path, *, place: str) -> Bundle:
    """Copy what is sent of a run or a version into a folder.

    Args:
        text: a run's folder, or NAME or NAME:VERSION of the repository.
        repository: where versions are.
        folder: to fill.
        place: where it will be fetched from, for the model card.

    Raises:
        UsageError: it is neither, it is not finished, or it is a TensorRT engine.
        ParityError: a version's file is not what its card says.
    """
    if (Path(text) / SPEC_FILE).is_file():
        return _gather_run(Path(text), folder, place)
    if "/" in text:
        raise UsageError(f"{text}: no run is there; give a run's folder, or NAME or NAME:VERSION of {repository.root}")
    return _gather_version(*parse_name(text), repository, folder, place)


def require_hash(path: Path, expected: str, *, said_by: str) -> None:
    """Check a file's bytes.

    Raises:
        ParityError: they are others, or the file is missing.
    """
    actual = sha256_of(path) if path.is_file() else "missing"
    if actual != expected:
        raise ParityError(
            f"{path.name}: sha256 {actual[:12]}, but {said_by} has {expected[:12]}; the file was changed or damaged"
        )


def _gather_version(name: str, version: int | None, repository: Repository, folder: Path, place: str) -> Bundle:
    source = repository.version_folder(checked_name(name), version)
    card = cards.read_card(source)
    if card.engine is not None:
        raise UsageError(
            f"{name} version {source.name}: is a TensorRT engine, for its own GPU only; push an ONNX export"
        )
    if card.unproved:
        raise UsageError(f"{name} version {source.name}: {card.unproved}; export the model again")
    for file, expected in card.files.items():
        require_hash(source / file, expected, said_by=f"{source / cards.FILE_NAME}")
        shutil.copyfile(source / file, folder / file)
    shutil.copyfile(source / cards.FILE_NAME, folder / cards.FILE_NAME)
    for beside in (CONFIG_FILE, LABELS_FILE):
        shutil.copyfile(source.parent / beside, folder / beside)
    (folder / README).write_text(model_card(card, place=place))
    return _bundle("version", name, f"{name} version {source.name}", folder)


def _gather_run(source: Path, folder: Path, place: str) -> Bundle:
    spec, config = read_spec(source / SPEC_FILE), read_config(source)
    if not (source / WEIGHTS).is_file():
        raise UsageError(f"{source}: has not finished its first epoch; continue the training, then push it")
    name = checked_name(source.resolve().name)
    files = (*RUN_FILES, *([PERHAPS] if (source / PERHAPS).is_file() else []))
    for file in files:
        shutil.copyfile(source / file, folder / file)
    (folder / README).write_text(run_card(name, spec, config, read_metrics(source), place=place))
    hashes = {file: sha256_of(folder / file) for file in files}
    (folder / MANIFEST).write_text(json.dumps({"kind": "run", "name": name, "files": hashes}, indent=2) + "\n")
    return _bundle("run", name, f"run {source}", folder)


def _bundle(kind: Kind, name: str, title: str, folder: Path) -> Bundle:
    files = tuple(
        BundleFile(name=path.name, size_bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.iterdir())
    )
    return Bundle(kind=kind, name=name, title=title, files=files)
