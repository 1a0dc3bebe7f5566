"""timm's networks by name, and those that the Hugging Face Hub holds in timm's form (`config.json` and weights).

timm builds a network and loads its weights (`timm.create_model`); its `pretrained_cfg` says how images are prepared and
what the classes are called (`timm_preprocessing`). timm from 1.0.26 on: older ones unpickle what files of weights hold.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resx.errors import UsageError, nearest, reason_of
from resx.export.sources.foreign_network import ForeignNetwork
from resx.export.sources.hub_errors import explain
from resx.export.sources.timm_preprocessing import class_labels, image_format
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.streams import silence_library
from resx.text import one_line
from resx.zoo.building import seed_torch
from resx.zoo.foreign_names import HUB_CONFIG, TIMM, hub_folder
from resx.zoo.weights import pretrained

_SMALLEST_SCALE = 0.1
"""A vector of one number up to this is a layer scale, which training makes larger."""
_BRANCH_SCALE = 0.25
"""Of a branch, in place of none: large enough to be seen, and small enough not to carry rounding through 50 of them."""


def load_timm(
    text: str, *, weights: str, seed: int, image_size: int | None, classes: int | None, entry: str
) -> ForeignNetwork:
    """Return a network that timm knows by name.

    Args:
        text: `timm:NAME` or `timm:NAME.TAG`; the tag says whose preprocessing and weights, else timm's first.
        weights: `none` (random, from `seed`), `imagenet` (what timm publishes under the tag), or a file.
        seed: of random weights.
        image_size: pixels each way; None takes the size that the network was trained at.
        classes: None takes the network's own number.
        entry: which part of the file of weights to take, if it holds the network several times.

    Raises:
        UsageError: there is no such network or tag, it is no classifier of square images, or the weights do not fit.
        MissingCapability: published weights could not be downloaded.
    """
    name = text.partition(":")[2]
    config = _find_config(text, name)
    is_published = weights == "imagenet"
    if is_published:
        if not config.get("hf_hub_id") and not config.get("url"):
            raise UsageError(f"{text}: timm publishes no weights of it; give --weights FILE or --weights none")
        pretrained.require_published_classes(config["num_classes"], classes)
    model = _create(text, name, seed=seed, is_published=is_published, classes=classes, config=config)
    image = image_format(text, _config_of(model), image_size)
    if is_published:
        origin = f"imagenet ({config.get('hf_hub_id') or config['url']})"
        labels = class_labels(_config_of(model), _num_classes(model), is_imagenet=True)
        return ForeignNetwork(model=model, image=image, labels=labels, origin=origin)
    if weights == "none":
        with seed_torch(seed):
            _start_branches(model)
        return ForeignNetwork(model=model, image=image, origin=f"random (seed {seed})")
    origin = pretrained.load_file(model, Path(weights), network=text, set_classes="--set classes={}", entry=entry)
    return ForeignNetwork(model=model, image=image, origin=origin)


def load_from_hub(
    text: str, *, weights: str, seed: int, image_size: int | None, settings: Sequence[str], entry: str
) -> ForeignNetwork:
    """Return a network and its weights as timm saved them: a repository of the Hub, or a folder with the same files.

    Args:
        text: `hf:ORG/NAME`, `hf:ORG/NAME@REVISION` or `hf:./FOLDER`.
        weights: `none`, that is, the repository's own.
        seed: of nothing but what the repository's weights leave out.
        image_size: pixels each way; None takes the size that the network was trained at.
        settings: none.
        entry: none.

    Raises:
        UsageError: there is no such repository, timm did not write it, or it is no classifier of square images.
        MissingCapability: it could not be downloaded.
    """
    import timm  # noqa: F401 - before anything is downloaded for it

    given = {"--weights": weights if weights != "none" else "", "--set": " ".join(settings), "--weights-entry": entry}
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} {value}: {text} has its own; remove the option")
    name, folder = text.partition(":")[2], hub_folder(text)
    path = folder / HUB_CONFIG if folder is not None else _download_config(text, name)
    _require_timms(text, path)
    source = f"local-dir:{folder}" if folder is not None else f"hf-hub:{name}"
    repository = {} if folder is not None else {"hf_hub_id": name}
    model = _create(text, source, seed=seed, is_published=True, classes=None, config=repository)
    is_timms = folder is None and name.startswith(f"{TIMM}/")
    labels = class_labels(_config_of(model), _num_classes(model), is_imagenet=is_timms)
    origin = str(folder) if folder is not None else f"{name} (commit {path.parent.name})"
    image = image_format(text, _config_of(model), image_size)
    return ForeignNetwork(model=model, image=image, labels=labels, origin=origin)


def _find_config(text: str, name: str) -> dict[str, Any]:
    """Return what timm says of a network and the weights of its tag; empty fields where it says nothing."""
    import timm
    from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_deprecated_models

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UsageError(f"{text}: timm has no such network{nearest(architecture, timm.list_models())}")
    if architecture in (renamed := get_deprecated_models()):
        now = renamed[architecture]
        raise UsageError(f"{text}: timm {f'calls it {TIMM}:{now} now' if now else 'no longer has it'}")
    tags = [known.partition(".")[2] for known in get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        choice = f"give timm:{architecture} or one of its tags, {', '.join(filter(None, tags))}" if any(tags) else ""
        raise UsageError(f"{text}: no tag {tag!r}; {choice or f'it has none: give timm:{architecture}'}")
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()
    return dict(config.to_dict())


def _create(
    text: str, name: str, *, seed: int, is_published: bool, classes: int | None, config: Mapping[str, Any]
) -> nn.Module:
    """Let timm build a network, and load its weights if they are published.

    Args:
        text: as the user named it.
        name: as timm does.
        seed: of random weights.
        is_published: whether weights are loaded.
        classes: None takes the network's own number.
        config: where the weights come from, for messages.
    """
    import timm

    try:
        with silence_library(), seed_torch(seed):
            model: nn.Module = timm.create_model(name, pretrained=is_published, num_classes=classes)
    except ImportError:
        raise
    except Exception as error:
        raise explain(text, config, error) from error
    if not _num_classes(model):
        raise UsageError(
            f"{text}: outputs features, not classes; choose another network, or add --set classes=N for a new head"
        )
    return model


def _config_of(model: nn.Module) -> Mapping[str, Any]:
    """Return the preprocessing and labels that timm noted in a network that it built."""
    return getattr(model, "pretrained_cfg", {})


def _num_classes(model: nn.Module) -> int:
    """Return how many classes a network has; 0 for one that gives features."""
    return getattr(model, "num_classes", 0)


def _start_branches(model: nn.Module) -> None:
    """Give weights to what timm starts at zero or nearly so, for training.

    Residual branches end in a norm or a layer of zeros, or in a scale of 0.000001: with them a network computes its
    skip connections alone, and no check of random weights would see a fault in a branch.
    """
    with torch.no_grad():
        for module in model.modules():
            for name, values in module.named_parameters(recurse=False):
                is_zero, is_vector = not values.any(), values.numel() == max(values.shape, default=0) > 1
                if is_zero and name == "weight" and values.ndim > 1:
                    nn.init.kaiming_normal_(values)
                elif (is_zero and name == "weight" and is_vector) or (is_vector and _is_small_scale(values)):
                    nn.init.constant_(values, _BRANCH_SCALE)


def _is_small_scale(values: torch.Tensor) -> bool:
    first = float(values.flatten()[0])
    return 0 < abs(first) <= _SMALLEST_SCALE and bool((values == first).all())


def _download_config(text: str, name: str) -> Path:
    """Return config.json of a repository, from the Hub's own cache or downloaded into it."""
    from huggingface_hub import hf_hub_download

    repository, _, revision = name.partition("@")
    try:
        with silence_library():
            return Path(hf_hub_download(repository, HUB_CONFIG, revision=revision or None))
    except ImportError:
        raise
    except Exception as error:
        raise explain(text, {"hf_hub_id": name}, error) from error


def _require_timms(text: str, path: Path) -> None:
    """Check that the `architecture` of a repository's config.json is one of timm's.

    Raises:
        UsageError: it is another library's, damaged, or of a timm that knows more networks.
    """
    import timm

    found: object = None
    try:
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(read_bounded(path, MAX_TEXT_BYTES))
    except OSError as error:
        raise UsageError(f"{path}: {reason_of(error)}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{text}: its {HUB_CONFIG} is not a JSON object; download it again")
    architecture = found.get("architecture")
    if not isinstance(architecture, str):
        other = " (transformers wrote it)" if "transformers_version" in found or "architectures" in found else ""
        raise UsageError(
            f"{text}: its {HUB_CONFIG} names no architecture of timm{other}; resx loads what timm saved for the Hub"
        )
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models())
        raise UsageError(
            f"{text}: timm {timm.__version__} has no network {one_line(architecture)[:80]!r}{near}; a newer one may"
        )
