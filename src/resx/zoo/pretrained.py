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


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """Where a variant's published weights are and what they were trained with."""

    url: str
    file_name: str
    labels: tuple[str, ...]
    image: ImageFormat
    top1_percent: float


def published_weights(name: str) -> PublishedWeights:
    """Return torchvision's entry for a variant.

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
    transforms = entry.transforms()
    return PublishedWeights(
        url=entry.url,
        file_name=entry.url.rpartition("/")[2],
        labels=tuple(entry.meta["categories"]),
        image=ImageFormat(
            image_size=transforms.crop_size[0], resize=transforms.resize_size[0],
            mean=tuple(transforms.mean), std=tuple(transforms.std), interpolation=transforms.interpolation.value,
        ),
        top1_percent=entry.meta["_metrics"]["ImageNet-1K"]["acc@1"],
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
    prefix = re.search(r"-([0-9a-f]{8,})\.", file_name)
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
    model.load_state_dict(dict(state), strict=False)


def with_published(spec: ModelSpec, published: PublishedWeights) -> ModelSpec:
    """Return the spec with the labels and image format that the published weights were trained with."""
    return spec.with_changes(labels=published.labels, image=published.image)


def _present_name(name: str) -> str:
    old = _OLD_DENSENET_KEY.fullmatch(name)
    return old[1] + old[2] if old else name.removeprefix("module.")


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
    return dict(state) if isinstance(state, Mapping) else {}
