"""The model repository: a folder that Triton reads, in which a version is whole or absent.

    model_repository/
        NAME/
            config.pbtxt  labels.txt      of all versions
            N/                            a version: model.onnx, card.json, README.md; never changed once there
        NAME_preprocess/  NAME_postprocess/  NAME_image/     its image endpoint, if it has one

Versions are staged beside the repository, not in it, as Triton takes every folder in it for a model.
Publishing holds a lock on the repository's folder, so two exports at once give two versions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resx.card import card as cards
from resx.card.card import Card
from resx.card.model_card import README, model_card
from resx.errors import UsageError, nearest
from resx.files.locks import exclusive, require_lockable
from resx.files.staging import publish_folder, remove_abandoned, staging_folder, write_atomic
from resx.names import checked_name, is_model_name
from resx.repository import config_pbtxt, image_endpoint
from resx.repository.config_pbtxt import CONFIG_FILE, LABELS_FILE, ServingOptions
from resx.repository.model_folders import is_file, is_folder, model_folders, versions_in, why_unreadable
from resx.repository.openvino_backend import fit_runtime
from resx.text import printable

DEFAULT = Path("model_repository")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A version that is in the repository."""

    name: str
    version: int
    folder: Path

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"{self.name} version {self.version}"

    @property
    def repository(self) -> Repository:
        """The one that it is in."""
        return Repository(self.model_folder.parent)

    @property
    def model_folder(self) -> Path:
        """Where its model's configuration and labels are."""
        return self.folder.parent


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository on disk; it need not exist until something is published."""

    root: Path
    """A text is taken for a path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        _require_text(self.root)

    def names(self) -> list[str]:
        """Return the models that Triton can load, sorted; image endpoints are parts of theirs.

        A model has a name that can be one, and a configuration, or an ONNX file that speaks for itself. One whose
        folder cannot be looked into is among them: whoever asks for its versions is told why.

        Raises:
            UsageError: the repository's own path has bytes that are no UTF-8.
        """
        self.require_text_path()
        named = [folder for folder in model_folders(self.root) if is_model_name(folder.name)]
        return [folder.name for folder in named if not image_endpoint.owner(folder)]

    def require_text_path(self) -> None:
        """Check the repository's whole path.

        Raises:
            UsageError: it has bytes that are no UTF-8.
        """
        _require_text(self.root.absolute())

    def is_endpoint(self, name: str) -> bool:
        """Say whether `name` is a part of another model's image endpoint."""
        return bool(image_endpoint.owner(self.root / name))

    def owner(self, name: str) -> str:
        """Return the model that `name` belongs to: itself, or the one whose image endpoint it is a part of."""
        return image_endpoint.owner(self.root / name) or name

    def endpoints(self, name: str) -> list[str]:
        """Return the models of NAME's image endpoint, in the order to load them; empty if it has none."""
        return image_endpoint.endpoint_names(self.root, checked_name(name))

    def versions(self, name: str) -> list[int]:
        """Return a model's versions, oldest first; empty if it has none."""
        return versions_in(self.root / checked_name(name))

    def has_card(self, name: str, version: int) -> bool:
        """Say whether resx exported a version."""
        return is_file(self.root / checked_name(name) / str(version) / cards.FILE_NAME)

    def require_readable(self, name: str, versions: Collection[int] | None = ()) -> None:
        """Check that a model's configuration, its labels and so on, and these versions (None: all) can be read.

        Raises:
            UsageError: something cannot be; the message names it, the reason and the remedy.
        """
        if reason := why_unreadable(self.root / checked_name(name), versions):
            raise UsageError(f"{name}: {reason}")

    def card(self, name: str, version: int | None = None) -> Card:
        """Return a version's card; None takes the newest.

        Raises:
            UsageError: there is no such model or version.
        """
        return cards.read_card(self.version_folder(name, version))

    def version_folder(self, name: str, version: int | None = None) -> Path:
        """Return the folder of a version; None takes the newest.

        Raises:
            UsageError: there is no such model or version.
        """
        versions = self.versions(name)
        if of := image_endpoint.owner(self.root / name):
            raise UsageError(f"{name}: is the image endpoint of {of} and is handled with it; use {of}")
        if not versions:
            known = self.names()
            if name in known:
                self.require_readable(name, None)
            if is_folder(self.root / name):
                raise UsageError(
                    f"{name}: has no version; put its model file into {self.root / name / '1'}, or remove "
                    f"{self.root / name} and `resx export --name {name}` again"
                )
            raise UsageError(f"{name}: no such model in {self.root}{nearest(name, known)}; add one with `resx export`")
        if version is not None and version not in versions:
            raise UsageError(f"{name}: no version {version}; there is {', '.join(map(str, versions))}")
        return self.root / name / str(version or versions[-1])

    def find(self, name: str, version: int | None = None) -> Published:
        """Return a version; None takes the newest.

        Raises:
            UsageError: there is no such model or version.
        """
        folder = self.version_folder(name, version)
        return Published(name=name, version=int(folder.name), folder=folder)

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """Give a folder on the repository's file system to write a version into; deleted at the end."""
        _require_text(self.root.absolute())
        parent = self.staging_parent()
        remove_abandoned(parent)
        with staging_folder(parent) as folder:
            yield folder

    def publish(self, staged: Path, card: Card, options: ServingOptions) -> Published:
        """Make the staged version the newest one of the model that its card names, with the card as README.md, too.

        Raises:
            UsageError: the model's other versions take another input or give another output.
        """
        name = checked_name(card.name)
        config = config_pbtxt.config_text(card, options)
        labels = config_pbtxt.labels_text(card)
        self.root.mkdir(parents=True, exist_ok=True)
        with exclusive(self.root):
            if options.image_endpoint:
                image_endpoint.endpoints(card)
                image_endpoint.require_free_names(self.root, name)
            (staged / README).write_text(model_card(card))
            published = self._publish_next(staged, name, config, labels)
            self._write_endpoints(card, options)
            return published

    def renew_endpoints(self, card: Card, options: ServingOptions) -> None:
        """Write what is missing or older of a published model's image endpoint, if it is to have one, or has.

        Raises:
            UsageError: the model takes no single images, or a name is another model's.
        """
        with exclusive(self.root):
            if options.image_endpoint:
                image_endpoint.require_free_names(self.root, card.name)
            self._write_endpoints(card, options)

    def publish_configured(self, staged: Path, card: Card, config: str) -> Published:
        """Make the staged version the newest one of a model that is there, under this text of config.pbtxt.

        Raises:
            UsageError: the model's other versions take another input or give another output.
        """
        with exclusive(self.root):
            (staged / README).write_text(model_card(card))
            return self._publish_next(staged, card.name, config, config_pbtxt.labels_text(card))

    def require_fitting(self, card: Card, options: ServingOptions) -> None:
        """Check that `publish` would take a version with this card.

        Raises:
            UsageError: the name cannot be used, or the model's other versions have another interface.
        """
        self.require_publishable(card.name)
        if options.image_endpoint:
            image_endpoint.endpoints(card)
            image_endpoint.require_free_names(self.root, card.name)
        if self.versions(card.name):
            self.require_same_interface(card.name, config_pbtxt.config_message(card, options))

    def _write_endpoints(self, card: Card, options: ServingOptions) -> None:
        if options.image_endpoint or self.endpoints(card.name):
            image_endpoint.write_endpoints(self.root, card, self.staging_parent())

    def _publish_next(self, staged: Path, name: str, config: str, labels: str) -> Published:
        versions = self.versions(name)
        if not versions:
            return self._publish_first(staged, name, config, labels)
        self.require_same_interface(name, config_pbtxt.parse(config))
        version = versions[-1] + 1
        # Old versions work under the new configuration too: a crash between these lines does no harm.
        _write_if_changed(self.root / name / LABELS_FILE, labels)
        _write_if_changed(self.root / name / CONFIG_FILE, config)
        publish_folder(staged, self.root / name / str(version))
        return Published(name=name, version=version, folder=self.root / name / str(version))

    def fit_config(self, message: Any, name: str, card: Card) -> None:
        """Let a model's configuration, the newest version's, say how the version with this card is computed."""
        newest = self.versions(name)[-1]
        if self.has_card(name, newest):
            fit_runtime(message, card, self.card(name, newest))

    def newest(self, name: str) -> Published | None:
        """Return a model's newest version, or None."""
        return self.find(name) if self.versions(name) else None

    def is_served_so(self, name: str, card: Card, options: ServingOptions) -> bool:
        """Say whether configuration and labels are what publishing this card would write, comments aside."""
        config, labels = self.root / name / CONFIG_FILE, self.root / name / LABELS_FILE
        if not (config.is_file() and labels.is_file()):
            return False
        same_labels = labels.read_bytes() == config_pbtxt.labels_text(card).encode()
        return same_labels and bool(config_pbtxt.read(config) == config_pbtxt.config_message(card, options))

    def require_publishable(self, name: str) -> None:
        """Check before long work that `name` can be published here.

        Raises:
            UsageError: the name cannot be a model's, or a folder without resx's cards has it already.
            CannotLock: the file system has no locks, so two exports at once could not be told apart.
        """
        require_lockable(self.root)
        folder = self.root / checked_name(name)
        foreign = folder.exists() and not list(folder.glob(f"*/{cards.FILE_NAME}"))
        if foreign:
            raise UsageError(
                f"{folder}: exists and was not made by `resx export`; choose another --name, or move it elsewhere"
            )

    def staging_parent(self) -> Path:
        """Return the folder beside the repository, or the repository if that is a mount point or cannot be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        root = self.root.resolve()
        same_disk = root.stat().st_dev == root.parent.stat().st_dev
        if not (same_disk and os.access(root.parent, os.W_OK)):
            return root
        return root.parent / f".{root.name}.staging"

    def _publish_first(self, staged: Path, name: str, config: str, labels: str) -> Published:
        with staging_folder(self.staging_parent()) as model:
            (model / CONFIG_FILE).write_bytes(config.encode())
            (model / LABELS_FILE).write_bytes(labels.encode())
            staged.rename(model / "1")
            publish_folder(model, self.root / name)
        return Published(name=name, version=1, folder=self.root / name / "1")

    def require_same_interface(self, name: str, new: Any) -> None:
        """Check that a configuration has the inputs and outputs of a model's versions.

        Raises:
            UsageError: it has others.
        """
        old = config_pbtxt.read(self.root / name / CONFIG_FILE)
        for what in ("input", "output"):
            before, after = (_interface(getattr(parsed, what)) for parsed in (old, new))
            if before != after:
                raise UsageError(
                    f"{name}: its versions have {what} {before}, this one has {after}; choose another --name"
                )


def _interface(tensors: object) -> str:
    described = [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in tensors]  # type: ignore[attr-defined]
    return ", ".join(f"{name} {dims} of type {data_type}" for name, data_type, dims in described)


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomic(path, text)


def _require_text(path: Path) -> None:
    if printable(str(path)) != str(path):
        raise UsageError(f"{path}: the name is not valid UTF-8, which Triton needs; rename it")
