"""What can be exported: a variant by name, a run's folder, a network of somebody else's making, or an .onnx file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto
from torch import nn

from resx.card.kinds import InputType, Precision, Target
from resx.card.origin import FileArguments, HeightWidth, Source, SourceArguments
from resx.data.photographs import RealImages, photograph_crops, photographs
from resx.errors import ExportError, UsageError
from resx.export.checks import parity
from resx.export.checks.accuracy import Labelled, held_out_images
from resx.export.checks.random_operations import random_operation
from resx.export.checks.rounding import round_network
from resx.export.graph import batchnorm_fusion, onnx_writer
from resx.export.graph.onnx_writer import WEIGHTED_MODULES
from resx.export.graph.resnext_form import grouped_form
from resx.export.graph.survival_folding import fold_survival
from resx.export.sources.image_layout import size_text
from resx.export.sources.onnx_files import LoadedFile, load_file
from resx.export.sources.python_networks import load_foreign
from resx.training.batch_norms import fit_batch_norms
from resx.training.runs import checkpoint
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import kind_of, variant
from resx.zoo.spec import ModelSpec
from resx.zoo.weights import pretrained

_NUM_FITTING_IMAGES = 8
# Enough real images that one disagreement in a hundred shows.
NUM_DATA_IMAGES = 128
NOTHING_GIVEN = FileArguments()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSource:
    """A network with its weights, in evaluation mode, and real images to check it on."""

    name: str
    """The default name of what is exported from it."""
    model: nn.Module
    description: Source
    real: RealImages
    labelled: Labelled | None = None
    """All held-out images of a run, with their classes; None where none are known."""

    @property
    def size_bytes(self) -> int:
        """Of the weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.parameters())

    def require_finite(self) -> None:
        """Check that every weight is a number.

        Raises:
            UsageError: one is not.
        """
        bad = [key for key, tensor in self.model.state_dict().items() if not torch.isfinite(tensor).all()]
        if bad:
            raise UsageError(
                f"{self.description.weights}: {len(bad)} weights are not finite ({bad[0]}); the training may have "
                "diverged: use a lower learning rate, or other weights"
            )

    def require_convertible(self, precision: Precision, *, stored_in: Precision) -> None:
        """Check nothing: a network can be written in every precision."""

    def require_openvino(self) -> None:
        """Check nothing: OpenVINO has every operator that a network is written in."""

    @property
    def quantised(self) -> None:
        """None: a network computes in floating point."""
        return None

    def folded(self) -> LoadedSource:
        """Return the source without survival factors: itself where there are none.

        Raises:
            ExportError: a branch ends in something that is not affine.
        """
        if self.description.network.survival == 1:
            return self
        return replace(self, model=fold_survival(self.model))

    def grouped(self) -> LoadedSource:
        """Return the source with its paths as grouped convolutions: itself where there are no paths."""
        model = grouped_form(self.model)
        return self if model is None else replace(self, model=model)

    def logits(self, images_NCHW: npt.NDArray[np.uint8]) -> parity.Logits:
        """Return eager PyTorch's answer [N, classes] in fp32."""
        return parity.torch_logits(self.model, self.description.network, images_NCHW)

    def rounded(self, precision: Precision) -> LoadedSource:
        """Return the source as it is written, folded and merged, with weights and layers rounded to 16 bits."""
        network = batchnorm_fusion.fuse(self.folded().model, target="cpu")
        return replace(self, model=round_network(network, onnx_writer.DTYPES[precision]))

    @property
    def computes_in(self) -> Precision:
        """The precision of its own answers."""
        return "fp32"

    @property
    def num_layers(self) -> int:
        """Layers with weights."""
        return sum(isinstance(module, WEIGHTED_MODULES) for module in self.model.modules())

    def random_operation(self, images_NCHW: npt.NDArray[np.uint8]) -> str:
        """Return which operation draws random numbers; empty if none does."""
        return random_operation(self.model, lambda: self.logits(images_NCHW))

    def write(self, path: Path, precision: Precision, input_type: InputType, target: Target) -> ModelProto:
        """Write the folded network as ONNX (`onnx_file.write_onnx`)."""
        return onnx_writer.write_onnx(
            self.model, self.description.network, path, precision=precision, input_type=input_type, target=target
        )

    def describe(self, model: ModelProto, precision: Precision, input_type: InputType) -> None:
        """Write into a file made of `write`'s what it is."""
        onnx_writer.tidy(model, self.description.network, precision=precision, input_type=input_type)

    def not_fused(self) -> str:
        """Return why its batch norms cannot be merged; empty where they can. Our own networks' always can."""
        if self.description.kind != "foreign":
            return ""
        try:
            batchnorm_fusion.trace(self.model)
        except ExportError as error:
            return str(error)
        return ""

    def operators(self) -> dict[str, int]:
        """Count what it computes with, as it is."""
        return batchnorm_fusion.operators(self.model)


def load_source(
    text: str,
    *,
    weights: str,
    seed: int,
    image_size: int | HeightWidth | None = None,
    settings: Sequence[str] = (),
    weights_entry: str = "",
    file: FileArguments = NOTHING_GIVEN,
) -> LoadedSource | LoadedFile:
    """Load what the user named.

    Args:
        text: a variant's name, the path of a run folder or of an .onnx file, `torchvision:NAME`, `timm:NAME`,
            `hf:ORG/NAME` or `module:function`.
        weights: for a variant: `none` (random, from `seed`), `imagenet`, or the path of a file. A run has
            its own, and takes only `none`.
        seed: of random weights and of the photographs' crops.
        settings: `field=value` of a variant's architecture, see `ModelSpec.with_settings`; of torchvision's and timm's
            networks `classes=N`.
        weights_entry: which part of the file of weights to take, if it holds the network several times.
        image_size: pixels each way, for a foreign network or a file that leaves them open, of a file also
            height and width; None takes its collection's, or 224.
        file: what an .onnx file does not say itself.

    Raises:
        UsageError: it is none of them, or its weights cannot be used.
        ExportError: onnxruntime refuses the file.
        MissingCapability: published weights could not be downloaded.
    """
    return load_named(
        SourceArguments(
            source=text,
            weights=weights,
            seed=seed,
            image_size=image_size,
            settings=tuple(settings),
            weights_entry=weights_entry,
            file=file,
        )
    )


def load_named(named: SourceArguments) -> LoadedSource | LoadedFile:
    """Load what a request or a card names; as `load_source`."""
    loaded: LoadedSource | LoadedFile
    text, weights = named.source, named.weights
    if named.weights_entry and weights in ("none", "imagenet"):
        raise UsageError(f"--weights-entry {named.weights_entry}: selects a part of a file; add --weights FILE")
    if kind_of(text) == "onnx":
        if weights != "none" or named.settings:
            raise UsageError(f"{text}: a file has its own weights and architecture; remove --weights and --set")
        loaded = load_file(Path(text), named.file, image_size=named.image_size, seed=named.seed)
    else:
        loaded = _load_network(named)
    return replace(loaded, description=loaded.description.model_copy(update={"arguments": named}))


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 over names, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load_network(named: SourceArguments) -> LoadedSource:
    kind, text = kind_of(named.source), named.source
    if isinstance(named.image_size, tuple):
        raise UsageError(f"--image-size {size_text(named.image_size)}: {text} takes square images; give one number")
    if kind == "foreign":
        model, spec, origin = load_foreign(
            text,
            weights=named.weights,
            seed=named.seed,
            image_size=named.image_size,
            settings=named.settings,
            entry=named.weights_entry,
        )
        return _describe(model, spec, name=spec.name, kind=kind, weights=origin, seed=named.seed)
    if named.settings and kind != "variant":
        raise UsageError(f"--set {named.settings[0]}: {text} is built already; remove the option")
    if named.image_size is not None:
        raise UsageError(f"--image-size {named.image_size}: {text} has its own image size; remove the option")
    return _load_run(named) if kind == "run" else _load_variant(named)


def _load_run(named: SourceArguments) -> LoadedSource:
    folder = Path(named.source)
    if named.weights != "none":
        raise UsageError(f"--weights {named.weights}: {folder} has its own weights; remove the option")
    model, spec = checkpoint.load_run(folder)
    labelled = _held_out(folder)
    if labelled is None:
        real = photographs(spec.image_size, spec.image_size, seed=named.seed)
    else:
        few = labelled.pick(NUM_DATA_IMAGES)
        real = RealImages(images=few.images[:], origin=few.origin, classes=few.classes)
    return LoadedSource(
        name=folder.resolve().name,
        model=model,
        description=Source(
            kind="run", spec=spec, weights=str(folder / checkpoint.WEIGHTS), weights_sha256=weights_sha256(model)
        ),
        real=real,
        labelled=labelled,
    )


def _held_out(folder: Path) -> Labelled | None:
    """Return the run's held-out images; None if the data are not here."""
    try:
        return held_out_images(checkpoint.load_run_data(folder))
    except UsageError:  # a run may be exported elsewhere than where it was trained
        return None


def _load_variant(named: SourceArguments) -> LoadedSource:
    name, weights, seed = named.source, named.weights, named.seed
    spec = variant(name).spec.with_settings(named.settings)
    if weights == "imagenet":
        published = pretrained.published_weights(name)
        pretrained.require_published_classes(len(published.labels), spec.classes)
        spec = pretrained.with_published(spec, published)
        path = pretrained.fetch(published.url, published.file_name)
    else:
        path = Path(weights)
    model = build_from_spec(spec, seed=seed)
    if weights == "none":
        # With their initial statistics, mean 0 and variance 1, a network of random weights is not what any training
        # gives: its activations grow with every block, and 1000 layers overflow even fp32.
        fit_batch_norms(model, spec, [photograph_crops(_NUM_FITTING_IMAGES, spec.image_size, seed=seed)])
        origin = f"random (seed {seed}), batch norms fitted to photographs"
    else:
        origin = pretrained.load_file(
            model, path, network=name, set_classes="--set classes={}", entry=named.weights_entry
        )
        origin = f"imagenet ({path.name})" if weights == "imagenet" else origin
    return _describe(model.eval(), spec, name=name, kind="variant", weights=origin, seed=seed)


def _describe(
    model: nn.Module, spec: ModelSpec, *, name: str, kind: Literal["variant", "foreign"], weights: str, seed: int
) -> LoadedSource:
    return LoadedSource(
        name=name,
        model=model,
        description=Source(kind=kind, spec=spec, weights=weights, weights_sha256=weights_sha256(model)),
        real=photographs(spec.image_size, spec.image_size, seed=seed),
    )
