"""Networks of somebody else's making: torchvision's by name, or whatever a function of the user's returns.

They are exported, verified and served like the zoo's; what resx does not know of them is their blocks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from resx.errors import UsageError, nearest
from resx.zoo import pretrained
from resx.zoo.architectures import ForeignArchitecture
from resx.zoo.building import seeded
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, ImageFormat, ModelSpec


def load_foreign(
    text: str, *, weights: str, seed: int, image_size: int | None, settings: Sequence[str] = (), entry: str = ""
) -> tuple[nn.Module, ModelSpec, str]:
    """Return the network in evaluation mode, its spec, and where its weights came from.

    Args:
        text: `torchvision:NAME`, or `module:function`: the function takes no arguments and returns a module;
            the module is looked for in the working folder too.
        weights: `none` (what the function gives, random for torchvision), `imagenet` (torchvision only), or
            a file.
        seed: of random weights.
        image_size: pixels each way; None takes torchvision's for that network, or 224.
        settings: `classes=N` for torchvision, and nothing else.
        entry: which part of the file of weights to take, if it holds the network several times.

    Raises:
        UsageError: there is no such network, or it does not give [N, classes] for [N, 3, H, W].
        MissingCapability: published weights could not be downloaded.
    """
    module, _, name = text.partition(":")
    labels: tuple[str, ...] = ()
    image = ImageFormat(image_size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    path = Path(weights)
    if module == "torchvision":
        classes = _classes(text, settings)
        model = _torchvision(name, seed, classes)
        published = _published(name)
        image = published.image if published else image
        if weights == "imagenet" and published:
            pretrained.require_published_classes(published, classes or len(published.labels))
            labels = published.labels
            path = pretrained.fetch(published.url, published.file_name)
    else:
        if settings:
            raise UsageError(f"--set {settings[0]}: {text} builds its network itself; change the function instead")
        model = _call(text, module, name, seed)
    if weights == "imagenet" and not labels:
        raise UsageError(f"{text}: nobody publishes ImageNet weights for it; give --weights FILE or --weights none")
    origin = f"random (seed {seed})" if module == "torchvision" else f"as {text} gives them (seed {seed})"
    if weights != "none":
        set_classes = "--set classes={}" if module == "torchvision" else f"let {text} return a network of {{}} classes"
        origin = pretrained.load_file(model, path, network=text, set_classes=set_classes, entry=entry)
    if image_size is not None:
        image = image.model_copy(update={"image_size": image_size, "resize": image_size})
    model.eval()
    spec = ModelSpec(
        name=name,
        architecture=ForeignArchitecture(source=text),
        classes=_num_classes(text, model, image.image_size),
        labels=labels,
        **image.model_dump(),
    )
    return model, spec, f"imagenet ({path.name})" if weights == "imagenet" else origin


def _classes(text: str, settings: Sequence[str]) -> int | None:
    """Return N of `classes=N`, the one setting that all of torchvision's networks have; None: the network's own."""
    if not settings:
        return None
    field, _, number = settings[-1].partition("=")
    if len(settings) > 1 or field != "classes" or not (number.isascii() and number.isdigit()) or int(number) < 2:
        raise UsageError(f"--set {' '.join(settings)}: {text} takes classes=N only, with N of 2 or more")
    return int(number)


def _published(name: str) -> pretrained.PublishedWeights | None:
    try:
        return pretrained.published_weights(name)
    except UsageError:
        return None


def _torchvision(name: str, seed: int, classes: int | None) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"torchvision:{name}: torchvision classifies with no such model{nearest(name, known)}")
    with seeded(seed):
        # GoogLeNet and Inception warn that their own initialisation is slow unless told to use or skip it.
        takes_init = name in {"googlenet", "inception_v3"}
        options = ({"init_weights": False} if takes_init else {}) | ({"num_classes": classes} if classes else {})
        return models.get_model(name, weights=None, **options)


def _call(text: str, module: str, name: str, seed: int) -> nn.Module:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{text}: {error}; give module:function, importable from here") from error
    try:
        with seeded(seed):
            model = function()
    except Exception as error:
        raise UsageError(f"{text}: calling it failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{text}: returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _num_classes(text: str, model: nn.Module, image_size: int) -> int:
    """Run the network once and return the width of its answer."""
    try:
        with torch.inference_mode():
            answer = model(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UsageError(
            f"{text}: fails on [2, 3, {image_size}, {image_size}] ({reason}); give --image-size"
        ) from error
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != 2 or answer.shape[1] < 2:
        shape = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise UsageError(f"{text}: gives {shape} for 2 images; resx serves classifiers, which give [2, classes]")
    return int(answer.shape[1])
