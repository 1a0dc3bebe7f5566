"""One version of one model as a Triton repository of its own, for a storage that pods read.

    NAME-VERSION-HASH/
        SHA256SUMS              of every other file; HASH is the beginning of its own SHA-256
        NAME/config.pbtxt       the repository's, with this version alone in its version policy
        NAME/labels.txt ...     what else lies beside it
        NAME/VERSION/           as published
        NAME_preprocess/ NAME_postprocess/ NAME_image/     its image endpoint, if it has one

A folder's name says what is in it, so nothing that is published later changes what a pod loads, and Triton, which
copies a bucket's folder of a model whole, copies one version.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resx.card.card import Card
from resx.errors import ParityError, UsageError
from resx.files.staging import publish_folder, sha256_of, staging_folder
from resx.repository import config_pbtxt, config_rules
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.text import one_line

RELEASES = "releases"
"""The folder beside manifests that a release is written into."""
SUMS = "SHA256SUMS"
_EMPTY = "EMPTY"
"""Stands in the version of an ensemble, as a bucket has no empty folders."""
_NO_BYTES = b"Triton wants a folder for each version; that of an ensemble has nothing in it.\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What a release's folder holds."""

    name: str
    sha256: str
    """Of the list of hashes, which holds the hashes of all files."""
    size_bytes: int
    files: Mapping[str, bytes | Path]
    """Contents, or the file that holds them, by path in the folder."""


def read_release(repository: Repository, name: str, version: int, card: Card, endpoints: Sequence[str]) -> Release:
    """Read a published version with the models of its image endpoint.

    Raises:
        UsageError: a configuration cannot be read or may not be loaded, or a file's name cannot be listed.
        ParityError: a file is not the one that was verified.
    """
    files: dict[str, bytes | Path] = dict(_files_of(repository, name, version))
    for endpoint in endpoints:
        config_rules.require_contained(repository.root, endpoint)
        files |= _all_files(repository.root / endpoint, endpoint)
        if not any(path.startswith(f"{endpoint}/1/") for path in files):
            files[f"{endpoint}/1/{_EMPTY}"] = _NO_BYTES
    sums = {
        path: hashlib.sha256(each).hexdigest() if isinstance(each, bytes) else sha256_of(each)
        for path, each in sorted(files.items())
    }
    _require_verified(repository.root, name, version, card, sums)
    listed = "".join(f"{digest}  {path}\n" for path, digest in sums.items()).encode()
    own = hashlib.sha256(listed).hexdigest()
    size = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in files.values())
    return Release(name=f"{name}-{version}-{own[:12]}", sha256=own, size_bytes=size, files={SUMS: listed, **files})


def write_release(release: Release, parent: Path) -> Path:
    """Write a release's folder into `parent`; return it. It appears whole.

    Raises:
        OSError: it cannot be written.
    """
    with staging_folder(parent) as staged:
        for path, content in release.files.items():
            target = staged / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
        publish_folder(staged, parent / release.name)
    return parent / release.name


def _files_of(repository: Repository, name: str, version: int) -> Mapping[str, bytes | Path]:
    """Return the model's own files: not those of other versions, and the configuration with this version alone."""
    config = config_rules.read_checked(repository.root, name)
    repository.fit_config(config, name, repository.card(name, version))
    config.version_policy.Clear()
    config.version_policy.specific.versions.append(version)
    found = {
        path: each
        for path, each in _all_files(repository.root / name, name).items()
        if not (top := path.split("/")[1]).isdigit() or top == str(version)
    }
    return found | {f"{name}/{CONFIG_FILE}": config_pbtxt.text(config).encode()}


def _all_files(folder: Path, name: str) -> dict[str, bytes | Path]:
    found: dict[str, bytes | Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            relative = f"{name}/{path.relative_to(folder).as_posix()}"
            if not relative.isprintable() or "\\" in relative:
                raise UsageError(f"{one_line(relative)}: not a plain file name; rename or delete it")
            found[relative] = path
    return found


def _require_verified(root: Path, name: str, version: int, card: Card, sums: Mapping[str, str]) -> None:
    for file, expected in card.files.items():
        if sums.get(f"{name}/{version}/{file}") != expected:
            path = root / name / str(version) / file
            raise ParityError(f"{path}: missing or not the file that was verified; export the model again")
