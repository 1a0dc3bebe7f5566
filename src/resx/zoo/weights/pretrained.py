"""Weights from files and from torchvision's published collection.

`checkpoint_files` reads a file and `weight_names` finds the network in it; what is here loads it. torchvision's
weight enums give URL, hash, labels and transforms; the download itself goes to resx's cache folder.
"""

from __future__ import annotations

import re
import urllib.error
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resx.errors import MissingCapability, UsageError, first_line
from resx.files.own_folders import make_cache_folder, require_own_cache
from resx.files.staging import sha256_of
from resx.zoo.spec import ImageFormat, ModelSpec
from resx.zoo.weights import checkpoint_files, weight_names
from resx.zoo.weights.checkpoint_files import Stored
from resx.zoo.weights.file_kinds import few, show_name
from resx.zoo.weights.weight_names import Fit

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
        raise UsageError(f"{name}: no published ImageNet weights; give --weights FILE or --weights none") from None
    return _describe(entry)


def published_as(name: str, path: Path) -> PublishedWeights | None:
    """Return torchvision's entry for a variant whose file `path` is, by its SHA-256; None if it is of no entry."""
    import torchvision

    digest = sha256_of(path) if path.is_file() else ""
    for entry in torchvision.models.get_model_weights(name):
        prefix = _HASH_IN_NAME.search(entry.url)
        if digest and prefix and digest.startswith(prefix[1]):
            return _describe(entry)
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

    state = checkpoint_files.read_torch(path)
    weights = models.get_model_weights(name)
    reading = object.__new__(weights)  # no enum member, but an instance, which is what builders ask for
    reading._name_, reading._value_ = published.entry, weights[published.entry].value
    reading.get_state_dict = lambda *_args, **_kwargs: state
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return models.get_model(name, weights=reading)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{path}: not the weights of torchvision:{name} ({first_line(error).rstrip(':')}); delete it"
        ) from error


def _describe(entry: Any) -> PublishedWeights:
    transforms = entry.transforms()
    return PublishedWeights(
        url=entry.url,
        file_name=entry.url.rpartition("/")[2],
        labels=tuple(entry.meta["categories"] or ()),
        image=ImageFormat(
            image_size=transforms.crop_size[0],
            resize=transforms.resize_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        ),
        top1_percent=entry.meta["_metrics"]["ImageNet-1K"]["acc@1"],
        entry=entry.name,
    )


def fetch(url: str, file_name: str) -> Path:
    """Return the cached file, downloaded from `url` first if it is not there.

    The hexadecimal digits in torchvision's file names are the beginning of the SHA-256; both a download
    and a file that was put there by hand are checked against them.

    Raises:
        MissingCapability: the download failed; the message says where to put the file.
        UsageError: the file is not the published one.
    """
    path = make_cache_folder("weights") / file_name
    require_own_cache(path)
    prefix = _HASH_IN_NAME.search(file_name)
    if not path.exists():
        try:
            torch.hub.download_url_to_file(url, str(path), prefix and prefix[1], progress=False)
        except (urllib.error.URLError, OSError) as error:
            raise MissingCapability(f"{url}: {error}; download it elsewhere and put it at {path}") from error
        except RuntimeError as error:  # download_url_to_file's word for a wrong hash
            raise UsageError(f"{url}: {error}; try again, or put the right file at {path}") from error
    if prefix and not sha256_of(path).startswith(prefix[1]):
        raise UsageError(f"{path}: its SHA-256 does not begin with {prefix[1]}; delete it and try again")
    return path


def require_published_classes(published: int, wanted: int | None) -> None:
    """Check that a network which published weights go into has as many classes as they; None: as many as they have.

    Raises:
        UsageError: it has not.
    """
    if wanted is not None and wanted != published:
        raise UsageError(
            f"--set classes={wanted}: the published weights have {published} classes; remove it, or give --weights FILE"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the largest state dict in a file, an EMA first, under torchvision's present names.

    It does not know which network they are for; `load_file` does.

    Raises:
        UsageError: the file is missing, truncated, or holds something other than named tensors.
    """
    file = checkpoint_files.read_checkpoint(path)
    prefix = weight_names.main_prefix(file)
    return {
        weight_names.present_name(key.removeprefix(prefix)): item.tensor
        for key, item in file.items()
        if key.startswith(prefix)
    }


def load_file(model: nn.Module, path: Path, *, network: str, set_classes: str, entry: str = "") -> str:
    """Copy the weights in a file into the model, and say where in the file they were.

    Args:
        model: the network; untouched if the file does not fit.
        path: a safetensors file, or one that `torch.save` wrote.
        network: what the user calls the model, for messages.
        set_classes: how to build it with N classes, `{}` standing for N.
        entry: which part of the file to take, if it holds the network several times.

    Returns:
        The path, and what is worth knowing of it: `k.pth (entry model_ema), EMA preferred to model`.

    Raises:
        UsageError: they do not fit; the message says why.
    """
    file = checkpoint_files.read_checkpoint(path)
    fit = _load(model, file, source=str(path), network=network, set_classes=set_classes, entry=entry)
    return _describe_fit(file, fit, path)


def load_for_training(
    model: nn.Module, path: Path, *, entry: str = "", labels: Sequence[str] = (), own: Sequence[str] = ()
) -> tuple[str, int | None]:
    """Copy the weights in a file into a model that is to be trained, but for a last layer of other classes.

    Args:
        model: the network; untouched if the file does not fit. A last layer that is not copied stays as it is.
        path: as `load_file`'s.
        entry: which part of the file to take, if it holds the network several times.
        labels: the classes that the file was trained on, where they are known.
        own: the classes that the model is to be trained on.

    Returns:
        Where in the file the weights were, as `load_file`; and the number of classes of the last layer that was left
        out (0: the file has none), or None if it was copied.

    Raises:
        UsageError: the rest does not fit; the message says why.
    """
    file = checkpoint_files.read_checkpoint(path)
    tensors = model.state_dict()
    fit = weight_names.find_fit(tensors, file, source=str(path), entry=entry)
    state = {name: file[key].tensor for name, key in fit.keys.items()}
    head = weight_names.head_of(tensors)
    weight = state.get(f"{head}.weight")
    left_out = None
    is_other = bool(labels) and tuple(labels) != tuple(own)
    if weight is None or is_other or weight.shape[:1] != tensors[f"{head}.weight"].shape[:1]:
        left_out = 0 if weight is None else len(weight)
        state = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] != head}
        state |= {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == head}
    _require_same_network(tensors, state, fit, str(path))
    tensors.update(state)
    model.load_state_dict(tensors)
    return _describe_fit(file, fit, path), left_out


def _describe_fit(file: Mapping[str, Stored], fit: Fit, path: Path) -> str:
    """Say where the weights were, and what is worth knowing of it."""
    values = [file[key].tensor for key in fit.keys.values()]
    others = {str(tensor.dtype).removeprefix("torch.") for tensor in values if tensor.is_floating_point()} - {"float32"}
    facts = {
        f"EMA preferred to {', '.join(fit.others)}": fit.others,
        f"not {', '.join(fit.incomplete)}, an EMA of fewer tensors": fit.incomplete,
        f"{', '.join(sorted(others))} converted to float32": others,
        f"last layer from {show_name(fit.renamed_head)}": fit.renamed_head,
        f"left out {few(fit.left_out)}": fit.left_out,
    }
    where = f"{path} (entry {fit.entry})" if fit.entry else str(path)
    return ", ".join([where, *(fact for fact, holds in facts.items() if holds)])


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into the model; names, but for a common prefix, and shapes must match one to one.

    Raises:
        UsageError: they do not; the message says which.
    """
    file = checkpoint_files.as_stored(state)
    _load(model, file, source=source, network="the model", set_classes="build it with {} classes", entry="")


def _load(
    model: nn.Module, file: Mapping[str, Stored], *, source: str, network: str, set_classes: str, entry: str
) -> Fit:
    """Load the part of a file that fits, and return it."""
    own = model.state_dict()
    fit = weight_names.find_fit(own, file, source=source, entry=entry)
    state = {name: file[key].tensor for name, key in fit.keys.items()}
    _require_same_classes(own, state, source=source, network=network, set_classes=set_classes)
    _require_same_network(own, state, fit, source)
    # The names are those of today's network, so its version of the format is the one they have: MNASNet asks.
    own.update(state)
    model.load_state_dict(own)
    return fit


def _require_same_classes(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str, network: str, set_classes: str
) -> None:
    """Check that the last layer has as many outputs, where that is all that differs."""
    head = f"{weight_names.head_of(own)}.weight"
    other = [name for name, tensor in state.items() if tensor.shape != own[name].shape]
    pairs = {(*own[name].shape[:1], *state[name].shape[:1]) for name in other}
    is_width = all(own[name].shape[1:] == state[name].shape[1:] and own[name].ndim for name in other)
    if head in other and is_width and len(pairs) == 1:
        ((has, holds),) = pairs
        if holds < 2:
            raise UsageError(f"{source}: its last layer has {holds} output; resx needs 2 classes or more")
        raise UsageError(f"{source}: holds {holds} classes, {network} has {has}: {set_classes.format(holds)}")


def _require_same_network(own: Mapping[str, Tensor], state: Mapping[str, Tensor], fit: Fit, source: str) -> None:
    missing = [name for name in own if name not in state and weight_names.is_needed(name)]
    is_prefixed = bool(fit.prefix) and 2 * len(fit.keys) >= len(own)  # a name alone that ends like one of ours is none
    unknown = [name.removeprefix(fit.prefix) if is_prefixed else name for name in fit.unknown]
    shapes = [
        f"{name} {list(tensor.shape)} for {list(own[name].shape)}"
        for name, tensor in state.items()
        if tensor.shape != own[name].shape
    ]
    reports = [
        f"{len(names)} {what} ({few(names)})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if reports:
        under = f" under the prefix {show_name(fit.prefix)}" if is_prefixed else ""
        raise UsageError(
            f"{source}: weights of another architecture{under}: {'; '.join(reports)}; name the model they are of"
        )


def with_published(spec: ModelSpec, published: PublishedWeights) -> ModelSpec:
    """Return the spec with the labels and image format that the published weights were trained with."""
    return spec.with_changes(labels=published.labels, image=published.image)
