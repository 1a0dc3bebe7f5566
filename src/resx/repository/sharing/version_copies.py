"""A version copied from one repository to another, for servers that share none."""

from __future__ import annotations

import shutil

from resx.card import card as cards
from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.files.staging import publish_folder, sha256_of, write_atomic
from resx.repository import config_pbtxt, config_rules, image_endpoint
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository


def copy_version(source: Repository, to: Repository, name: str, version: int) -> None:
    """Copy a version to another repository under its number, with its configuration and its image endpoint.

    Raises:
        UsageError: as `require_copyable`.
    """
    from_model, to_model = source.root / name, to.root / name
    to.root.mkdir(parents=True, exist_ok=True)
    with exclusive(to.root), to.stage() as staged:
        require_copyable(source, to, name, version)
        shutil.copytree(from_model / str(version), staged / str(version), copy_function=shutil.copyfile)
        beside = [path for path in from_model.iterdir() if path.is_file()]
        if to_model.exists():
            for path in beside:
                write_atomic(to_model / path.name, path.read_bytes())
            publish_folder(staged / str(version), to_model / str(version))
        else:
            for path in beside:
                shutil.copyfile(path, staged / path.name)
            publish_folder(staged, to_model)
        if source.endpoints(name):
            card = source.card(name, version).model_copy(update={"name": name})
            image_endpoint.write_endpoints(to.root, card, to.staging_parent())


def require_copyable(source: Repository, to: Repository, name: str, version: int) -> None:
    """Check that `copy_version` would copy a version.

    Raises:
        UsageError: the number or a name is taken, the interface is another, it has no card, or may not be loaded.
    """
    if not (source.root / name / str(version) / cards.FILE_NAME).is_file():
        raise UsageError(f"{name} version {version}: has no card, so it was not copied; copy it to {to.root} yourself")
    config_rules.require_contained(source.root, name)
    to.require_publishable(name)
    if version in to.versions(name):
        raise UsageError(
            f"{to.root / name / str(version)}: is a different version with the same number; export {name} again, "
            f"into {source.root}"
        )
    if source.endpoints(name):
        image_endpoint.require_free_names(to.root, name)
    if to.versions(name):
        to.require_same_interface(name, config_pbtxt.read(source.root / name / CONFIG_FILE))


def has_copy(source: Repository, to: Repository, name: str, version: int) -> bool:
    """Say whether the version of that number has the same files in both repositories."""
    folders = [root / name / str(version) for root in (to.root, source.root)]
    mine, theirs = (
        {path.relative_to(folder): sha256_of(path) for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    return mine == theirs
