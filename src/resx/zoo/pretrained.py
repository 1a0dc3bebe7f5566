"""Weights from files and from torchvision's published collection.

Files are `.safetensors`, or `.pth`/`.pt` read with `weights_only=True`: no pickle ever runs. torchvision's
weight enums give URL, hash, labels and transforms; the download itself goes to resx's cache folder.
"""

from __future__ import annotations

import pickle
import re
import urllib.error
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resx.errors import MissingCapability, UsageError
from resx.files import cache_folder, sha256_of
from resx.zoo.spec import ImageFormat, ModelSpec

# The published DenseNet files still say `denselayer1.norm.1.weight` for `denselayer1.norm1.weight`.
_OLD_DENSENET_KEY = re.compile(
    r"(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var|num_batches_tracked))"
)
# torchvision writes the beginning of a file's SHA-256 into its name.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """Where a variant's published weights are and what they were trained with."""

    url: str
    file_name: str
    labels: tuple[str, ...]
    image: ImageFormat
    top1_percent: float
    entry: str
    """torchvision's name for them, such as IMAGENET1K_V2."""


def published_weights(name: str) -> PublishedWeights:
    """Return torchvision's default entry for a variant.

    Raises:
        UsageError: torchvision publishes no weights of that name.
    """
    import torchvision

    try:
        entry = torchvision.models.get_model_weights(name).DEFAULT
    except ValueError:
        raise UsageError(
            f"{name}: nobody publishes ImageNet weights for it; give --weights FILE or --weights none"
        ) from None
    return _described(entry)


def published_as(name: str, path: Path) -> PublishedWeights | None:
    """Return torchvision's entry for a variant whose file `path` is, by its SHA-256; None if it is of no entry."""
    import torchvision

    digest = sha256_of(path) if path.is_file() else ""
    for entry in torchvision.models.get_model_weights(name):
        prefix = _HASH_IN_NAME.search(entry.url)
        if digest and prefix and digest.startswith(prefix[1]):
            return _described(entry)
    return None


def build_published(name: str, published: PublishedWeights, path: Path) -> nn.Module:
    """Return torchvision's network with published weights, made by torchvision's own builder.

    The builder knows more than names and shapes: GoogLeNet and Inception normalize their input again
    (`transform_input`), ViT has the image size of its weights, older files have older names and versions. It sees a
    private copy of the weights' entry that reads our file; no pickle runs.

    Raises:
        UsageError: the file does not hold them.
    """
    from torchvision import models

    state = _read_torch(path)
    weights = models.get_model_weights(name)
    reading = object.__new__(weights)  # no enum member, but an instance, which is what builders ask for
    reading._name_, reading._value_ = published.entry, weights[published.entry].value
    reading.get_state_dict = lambda *_args, **_kwargs: state
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return models.get_model(name, weights=reading)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{path}: not the weights of torchvision:{name} ({_first_line(error)}); delete it") from error


def _described(entry: Any) -> PublishedWeights:
    transforms = entry.transforms()
    return PublishedWeights(
        url=entry.url,
        file_name=entry.url.rpartition("/")[2],
        labels=tuple(entry.meta["categories"] or ()),
        image=ImageFormat(
            image_size=transforms.crop_size[0], resize=transforms.resize_size[0],
            mean=tuple(transforms.mean), std=tuple(transforms.std), interpolation=transforms.interpolation.value,
        ),
        top1_percent=entry.meta["_metrics"]["ImageNet-1K"]["acc@1"],
        entry=entry.name,
    )  # fmt: skip


def fetch(url: str, file_name: str) -> Path:
    """Return the cached file, downloaded from `url` first if it is not there.

    The hexadecimal digits in torchvision's file names are the beginning of the SHA-256; both a download
    and a file that was put there by hand are checked against them.

    Raises:
        MissingCapability: the download failed; the message says where to put the file.
        UsageError: the file is not the published one.
    """
    path = cache_folder() / "weights" / file_name
    prefix = _HASH_IN_NAME.search(file_name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), prefix and prefix[1], progress=False)
        except (urllib.error.URLError, OSError) as error:
            raise MissingCapability(f"{url}: {error}; download it elsewhere and put it at {path}") from error
        except RuntimeError as error:  # download_url_to_file's word for a wrong hash
            raise UsageError(f"{url}: {error}; try again, or put the right file at {path}") from error
    if prefix and not sha256_of(path).startswith(prefix[1]):
        raise UsageError(f"{path}: its SHA-256 does not begin with {prefix[1]}; delete it and try again")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, `.pth` or `.pt`, under torchvision's present names.

    Raises:
        UsageError: the file is missing, truncated, or holds something other than named tensors.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a .safetensors, .pth or .pt file of weights")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in ("state_dict", "model"):  # training scripts' usual envelopes
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{path}: holds no state dict (names to tensors); save `model.state_dict()`")
    return {_present_name(name): tensor for name, tensor in state.items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into the model; names and shapes must match one to one.

    Raises:
        UsageError: they do not; the message says which.
    """
    own = model.state_dict()
    # Counters of training steps are in newer files only and change nothing in evaluation.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} {list(tensor.shape)} for {list(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    reports = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if reports:
        raise UsageError(f"{source}: weights of another architecture: {'; '.join(reports)}; name the model they are of")
    # The names are those of today's network, so its version of the format is the one they have: MNASNet asks.
    own.update(state)
    model.load_state_dict(own)


def with_published(spec: ModelSpec, published: PublishedWeights) -> ModelSpec:
    """Return the spec with the labels and image format that the published weights were trained with."""
    return spec.with_changes(labels=published.labels, image=published.image)


def _present_name(name: str) -> str:
    old = _OLD_DENSENET_KEY.fullmatch(name)
    return old[1] + old[2] if old else name.removeprefix("module.")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(":")


def _read_safetensors(path: Path) -> dict[str, Any]:
    import safetensors
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path}: truncated or not safetensors ({error}); copy it again") from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "unusual pickle protocol": of files that are then refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path}: truncated, or not a plain file of weights ({reason}); copy or convert it") from error
    return state if isinstance(state, dict) else {}  # as it is: torch keeps the format's version in an attribute
