"""Networks of somebody else's making: torchvision's, timm's and the Hub's by name, or what a user's function returns.

They are exported, verified and served like the zoo's; what resx does not know of them is their blocks.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import pydantic
import torch
from torch import Tensor, nn

from resx.errors import UsageError, first_line, nearest
from resx.export.sources import timm_networks
from resx.export.sources.foreign_network import ForeignNetwork, requested_classes
from resx.export.sources.wrappers import LogitsOf, is_scripted, logits_in, unwrap
from resx.files.json_faults import first_fault
from resx.zoo.architectures import ForeignArchitecture
from resx.zoo.building import seed_torch
from resx.zoo.foreign_names import COLLECTIONS, HUB, TIMM, TORCHVISION, short_name
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, ImageFormat, ModelSpec
from resx.zoo.weights import pretrained

# The auxiliary heads that training needs, by the beginning of their weights' names. torchvision's own weights of these
# two want `transform_input`, which no file says.
_AUXILIARY_HEADS = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}
# More images than one: few, and more than tests for small batches have in mind.
_BATCHES = (3, 9)


def load_foreign(
    text: str, *, weights: str, seed: int, image_size: int | None, settings: Sequence[str] = (), entry: str = ""
) -> tuple[nn.Module, ModelSpec, str]:
    """Return the network in evaluation mode, its spec, and where its weights came from.

    Args:
        text: `torchvision:NAME`, `timm:NAME`, `hf:ORG/NAME`, or `module:function`: the function takes no arguments and
            returns a module; the module is looked for in the working folder first. It is code: what the user named.
        weights: `none` (what the function gives, or the Hub; random for torchvision and timm), `imagenet` (torchvision
            and timm), or a file.
        seed: of random weights.
        image_size: pixels each way; None takes the collection's for that network, or 224.
        settings: `classes=N` for torchvision and timm, and nothing else.
        entry: which part of the file of weights to take, if it holds the network several times.

    Raises:
        UsageError: there is no such network, or it does not give [N, classes] for [N, 3, H, W].
        MissingCapability: published weights could not be downloaded.
    """
    found = _load(text, weights=weights, seed=seed, image_size=image_size, settings=settings, entry=entry)
    image = found.image
    model, num_classes = _classifier(text, found.model.eval(), image.image_size)
    if text.partition(":")[0] not in COLLECTIONS:
        _require_any_batch(text, model, image.image_size)
    try:
        spec = ModelSpec(
            name=short_name(text),
            architecture=ForeignArchitecture(source=text),
            classes=num_classes,
            labels=found.labels,
            **image.model_dump(),
        )
    except pydantic.ValidationError as error:
        raise UsageError(f"{text}: {first_fault(error)}") from error
    return model, spec, found.origin


def _load(
    text: str, *, weights: str, seed: int, image_size: int | None, settings: Sequence[str], entry: str
) -> ForeignNetwork:
    collection = text.partition(":")[0]
    if collection == HUB:
        return timm_networks.load_from_hub(
            text, weights=weights, seed=seed, image_size=image_size, settings=settings, entry=entry
        )
    if collection == TIMM:
        classes = requested_classes(text, settings)
        return timm_networks.load_timm(
            text, weights=weights, seed=seed, image_size=image_size, classes=classes, entry=entry
        )
    if collection == TORCHVISION:
        found = _of_torchvision(text, weights, seed, requested_classes(text, settings), entry)
    elif settings:
        raise UsageError(f"--set {settings[0]}: {text} builds its own network; change the function instead")
    else:
        found = _of_user(text, weights, seed, entry)
    if image_size is None:
        return found
    image = found.image.model_copy(update={"image_size": image_size, "resize": image_size})
    return replace(found, image=image)


def _of_torchvision(text: str, weights: str, seed: int, classes: int | None, entry: str) -> ForeignNetwork:
    """Return torchvision's network; with published weights, by its own builder, whichever way they came here."""
    from torchvision import models

    name = text.partition(":")[2]
    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"torchvision:{name}: torchvision has no such classifier{nearest(name, known)}")
    default = pretrained.published_weights(name)
    if weights == "none":
        return ForeignNetwork(model=_build(name, seed, classes), image=default.image, origin=f"random (seed {seed})")
    path, published, origin = Path(weights), pretrained.published_as(name, Path(weights)), weights
    if weights == "imagenet":
        pretrained.require_published_classes(len(default.labels), classes)
        path, published = pretrained.fetch(default.url, default.file_name), default
        origin = f"imagenet ({path.name})"
    if published is not None:
        pretrained.require_published_classes(len(published.labels), classes)
        model = pretrained.build_published(name, published, path)
        return ForeignNetwork(model=model, image=published.image, labels=published.labels, origin=origin)
    auxiliary = name not in _AUXILIARY_HEADS or any(
        key.startswith(_AUXILIARY_HEADS[name]) for key in pretrained.read_weights(path)
    )
    model = _build(name, seed, classes, auxiliary=auxiliary)
    origin = pretrained.load_file(model, path, network=text, set_classes="--set classes={}", entry=entry)
    if name in _AUXILIARY_HEADS:
        origin += " (built with transform_input=False)"
    return ForeignNetwork(model=model, image=default.image, origin=origin)


def _build(name: str, seed: int, classes: int | None, *, auxiliary: bool = True) -> nn.Module:
    from torchvision import models

    # GoogLeNet and Inception warn that their own initialisation is slow unless told to use or skip it.
    options: dict[str, int] = {"init_weights": False, "aux_logits": auxiliary} if name in _AUXILIARY_HEADS else {}
    options |= {"num_classes": classes} if classes else {}
    with seed_torch(seed):
        return models.get_model(name, weights=None, **options)


def _of_user(text: str, weights: str, seed: int, entry: str) -> ForeignNetwork:
    if weights == "imagenet":
        raise UsageError(f"{text}: no published ImageNet weights; give --weights FILE or --weights none")
    model = _call(text, seed)
    origin = f"as {text} gives them (seed {seed})"
    if weights != "none":
        set_classes = f"let {text} return a network of {{}} classes"
        origin = pretrained.load_file(model, Path(weights), network=text, set_classes=set_classes, entry=entry)
    image = ImageFormat(image_size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return ForeignNetwork(model=model, image=image, origin=origin)


def _call(text: str, seed: int) -> nn.Module:
    """Return what the function gives, without wrappers, in fp32 on the CPU."""
    module, _, name = text.partition(":")
    with contextlib.redirect_stdout(sys.stderr):  # stdout is the command's own answer
        try:
            function = getattr(_import(module), name)
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"{text}: {first_line(error)}; give module:function, importable from this folder"
            ) from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"{text}: importing {module} failed: {first_line(error, with_type=True)}") from error
        _require_no_arguments(text, function)
        try:
            with seed_torch(seed):
                model = function()
        except (Exception, SystemExit) as error:
            raise UsageError(f"{text}: calling it failed: {first_line(error, with_type=True)}") from error
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise UsageError(f"{text}: returned {what}; it must return a torch.nn.Module")
    if is_scripted(model):
        raise UsageError(
            f"{text}: is TorchScript, which torch.onnx no longer exports; return the module that was scripted or traced"
        )
    try:
        return unwrap(model).cpu().float()
    except Exception as error:
        raise UsageError(
            f"{text}: its weights cannot be converted to fp32 on the CPU: {first_line(error, with_type=True)}"
        ) from error


def _import(module: str) -> ModuleType:
    """Import the user's module, from the working folder first; what it imports, only if it is installed nowhere.

    So an `onnx.py` that lies in the working folder is never taken for the package, here or later.
    """
    here, top = str(Path.cwd()), module.partition(".")[0]
    if here not in sys.path:
        sys.path.append(here)
    spec = PathFinder.find_spec(top, [here])
    if top not in {*sys.modules, *sys.stdlib_module_names} and spec and spec.loader and spec.has_location:
        sys.modules[top] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[top])
        except BaseException:
            del sys.modules[top]
            raise
    return importlib.import_module(module)


def _require_no_arguments(text: str, function: object) -> None:
    if isinstance(function, nn.Module):
        raise UsageError(f"{text}: is a module already; use a function without arguments that returns it")
    if not callable(function):
        raise UsageError(
            f"{text}: is {type(function).__name__}, not a function; use one that returns a torch.nn.Module"
        )
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UsageError(f"{text}: {error}; give a function without arguments that returns the module") from error
    except ValueError:  # of a builtin, whose signature is not known
        return


def _classifier(text: str, model: nn.Module, image_size: int) -> tuple[nn.Module, int]:
    """Run the network once; return it, cut down to its logits, and the number of its classes."""
    try:
        with torch.inference_mode():
            answer = model(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:
        raise UsageError(
            f"{text}: fails on [2, 3, {image_size}, {image_size}] ({first_line(error, with_type=True)}); give "
            "--image-size, if it takes another size"
        ) from error
    logits = logits_in(answer)
    if logits is not answer:
        model = LogitsOf(model)
    if not isinstance(logits, Tensor):
        raise UsageError(f"{text}: gives {_kind(answer)}; return only the logits [N, classes], or name them `logits`")
    if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        raise UsageError(
            f"{text}: gives {list(logits.shape)} for 2 images; resx serves classifiers, which give [2, classes]"
        )
    return model, int(logits.shape[1])


def _require_any_batch(text: str, model: nn.Module, image_size: int) -> None:
    """Check that copies of an image get the answer that it gets alone: the code does not look at the batch's size.

    Raises:
        UsageError: it does.
    """
    images = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    answers = []
    for num_images in (1, 1, *_BATCHES):
        try:
            with torch.inference_mode():
                logits: Tensor = model(images.repeat(num_images, 1, 1, 1))
            answers.append(logits[:1])
        except Exception as error:
            raise UsageError(
                f"{text}: fails on a batch of {num_images} ({first_line(error, with_type=True)}); forward must "
                "take any number of images"
            ) from error
    alone, again, *others = answers
    bound = 1e-3 * float(alone.abs().max())
    if not float((alone - again).abs().max()) <= bound:
        return  # random, or not finite: the export compares and says so
    for num_images, answer in zip(_BATCHES, others, strict=True):
        if answer.shape != alone.shape or not float((answer - alone).abs().max()) <= bound:
            raise UsageError(
                f"{text}: one image and {num_images} copies of it get different answers: its forward depends on the "
                "batch size, which dynamic batching changes; do not use x.shape[0] in it"
            )


def _kind(answer: object) -> str:
    if isinstance(answer, Mapping):
        return f"{type(answer).__name__} ({', '.join(map(str, answer))})"
    return f"{type(answer).__name__} of {len(answer)}" if isinstance(answer, tuple | list) else type(answer).__name__
