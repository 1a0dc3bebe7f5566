"""What can be exported: a variant by name, a trained run's folder, or a network of somebody else's making."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from resx.errors import UsageError
from resx.export import parity
from resx.export.card import Source, SourceArguments
from resx.export.foreign import load_foreign
from resx.training import checkpoint, evaluation
from resx.zoo import pretrained
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import kind_of, variant
from resx.zoo.spec import ModelSpec

# Enough real images that one disagreement in a hundred shows, few enough for a laptop at 224 pixels.
_NUM_FITTING_IMAGES = 8
NUM_REAL_IMAGES = {"photographs": 16, "data": 128}


@dataclass(frozen=True, kw_only=True, slots=True)
class RealImages:
    """Images that were photographed, not made: noise alone would not show a wrong colour order."""

    images: npt.NDArray[np.uint8]
    """[N, 3, H, W] at the network's size."""
    origin: str
    """For the card."""
    classes: npt.NDArray[np.int64] | None = None
    """[N]; None where they are not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSource:
    """A network with its weights, in evaluation mode, and real images to check it on."""

    name: str
    """The default name of what is exported from it."""
    model: nn.Module
    description: Source
    real: RealImages


def load_source(
    text: str, *, weights: str, seed: int, image_size: int | None = None, settings: Sequence[str] = ()
) -> LoadedSource:
    """Load what the user named.

    Args:
        text: a variant's name, the path of a run folder, `torchvision:NAME` or `module:function`.
        weights: for a variant: `none` (random, from `seed`), `imagenet`, or the path of a file. A run has
            its own, and takes only `none`.
        seed: of random weights and of the photographs' crops.
        settings: `field=value` of a variant's architecture, see `ModelSpec.with_settings`.
        image_size: pixels each way, for a foreign network; None takes torchvision's, or 224.

    Raises:
        UsageError: it is none of them, or its weights cannot be used.
        MissingCapability: published weights could not be downloaded.
    """
    loaded = _load(text, weights=weights, seed=seed, image_size=image_size, settings=settings)
    arguments = SourceArguments(
        source=text, weights=weights, seed=seed, image_size=image_size, settings=tuple(settings)
    )
    return replace(loaded, description=loaded.description.model_copy(update={"arguments": arguments}))


def fit_batch_norms(model: nn.Module, spec: ModelSpec, images_NCHW: npt.NDArray[np.uint8]) -> None:
    """Set the running statistics of a network's batch norms to those of the images; leave it in evaluation mode.

    With their initial statistics, mean 0 and variance 1, a network of random weights is not what any training
    gives: its activations grow with every block, and 1000 layers overflow even fp32.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0  # the batch's own statistics, whole
    with torch.inference_mode():
        model(evaluation.normalised(images_NCHW, spec, torch.device("cpu")))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 over names, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(text: str, *, weights: str, seed: int, image_size: int | None, settings: Sequence[str]) -> LoadedSource:
    kind = kind_of(text)
    if settings and kind != "variant":
        raise UsageError(f"--set {settings[0]}: {text} is built already; leave the option out")
    if kind == "foreign":
        model, spec, origin = load_foreign(text, weights=weights, seed=seed, image_size=image_size)
        return _described(model, spec, name=text.rpartition(":")[2], kind=kind, weights=origin, seed=seed)
    if image_size is not None:
        raise UsageError(f"--image-size {image_size}: {text} has a size of its own; leave the option out")
    if kind == "run":
        return _load_run(Path(text), weights=weights, seed=seed)
    return _load_variant(text, weights=weights, seed=seed, settings=settings)


def _load_run(folder: Path, *, weights: str, seed: int) -> LoadedSource:
    if weights != "none":
        raise UsageError(f"--weights {weights}: {folder} has weights of its own; leave the option out")
    model, spec = checkpoint.load_run(folder)
    return LoadedSource(
        name=folder.resolve().name,
        model=model,
        description=Source(
            kind="run", spec=spec, weights=str(folder / checkpoint.WEIGHTS), weights_sha256=weights_sha256(model)
        ),
        real=_held_out(folder) or _photographs(spec.image_size, seed=seed),
    )


def _held_out(folder: Path) -> RealImages | None:
    """Return images of the run's held-out data, spread over all of it; None if the data are not here."""
    try:
        data = checkpoint.load_run_data(folder)
    except UsageError:  # a run may be exported elsewhere than where it was trained
        return None
    num_images = min(NUM_REAL_IMAGES["data"], len(data.held_out))
    chosen = np.linspace(0, len(data.held_out) - 1, num_images).astype(np.int64)
    return RealImages(
        images=data.held_out.images[chosen],
        origin=f"held-out images of {data.name}",
        classes=data.held_out.targets[chosen],
    )


def _photographs(size: int, *, seed: int) -> RealImages:
    crops = parity.photograph_crops(NUM_REAL_IMAGES["photographs"], size, seed=seed)
    return RealImages(images=crops, origin="crops of scikit-learn's sample photographs")


def _load_variant(name: str, *, weights: str, seed: int, settings: Sequence[str]) -> LoadedSource:
    spec = variant(name).spec.with_settings(settings)
    if weights == "imagenet":
        published = pretrained.published_weights(name)
        spec = pretrained.with_published(spec, published)
        path = pretrained.fetch(published.url, published.file_name)
    else:
        path = Path(weights)
    model = build_from_spec(spec, seed=seed)
    if weights == "none":
        fit_batch_norms(model, spec, parity.photograph_crops(_NUM_FITTING_IMAGES, spec.image_size, seed=seed))
    else:
        pretrained.load_weights(model, pretrained.read_weights(path), source=str(path))
    origin = {
        "none": f"random (seed {seed}), batch norms fitted to photographs",
        "imagenet": f"imagenet ({path.name})",
    }.get(weights, weights)
    return _described(model.eval(), spec, name=name, kind="variant", weights=origin, seed=seed)


def _described(
    model: nn.Module, spec: ModelSpec, *, name: str, kind: Literal["variant", "foreign"], weights: str, seed: int
) -> LoadedSource:
    return LoadedSource(
        name=name,
        model=model,
        description=Source(kind=kind, spec=spec, weights=weights, weights_sha256=weights_sha256(model)),
        real=_photographs(spec.image_size, seed=seed),
    )
