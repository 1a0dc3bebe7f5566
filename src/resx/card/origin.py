"""Where a model came from: the source that was named, with its arguments, its weights and their hash."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import pydantic
from pydantic import Field

from resx.card.kinds import MAX_SEED, ChannelOrder, InputType, Layout, OutputKind, PixelMax
from resx.card.signature import Normalization, Signature, signature_of
from resx.values import FrozenModel
from resx.zoo.spec import Channels, ImageSize, ModelSpec

HeightWidth: TypeAlias = tuple[ImageSize, ImageSize]
_RANDOM = re.compile(r"random( \(seed \d+\)(, .*)?)?")


class FileArguments(FrozenModel):
    """What a third-party .onnx file does not say itself."""

    mean: Channels | None = None
    """Mean of R, G and B, for pixels from 0 to `pixel_max`; None: the file's metadata, or ImageNet's."""
    std: Channels | None = None
    layout: Layout | None = None
    """None: by the shape of the input."""
    channels: ChannelOrder = "rgb"
    pixel_max: PixelMax = 1
    """255: nothing is normalized but by `mean` and `std`."""
    labels: str = ""
    """A text file with one label per line; empty where there is none."""
    output: str = ""
    """The output that is exported, of several; empty where the file has one."""


class SourceArguments(FrozenModel):
    """What `load_source` was given: enough to load the same network again where its files are."""

    source: str
    weights: str
    seed: int = Field(ge=0, le=MAX_SEED)
    image_size: ImageSize | HeightWidth | None
    """Each way; or height and width, for an .onnx file alone."""
    settings: tuple[str, ...]
    weights_entry: str = ""
    """Which part of the file of weights to take; empty leaves it to the rule."""
    file: FileArguments = FileArguments()


class Source(FrozenModel):
    """Origin of the weights."""

    kind: Literal["variant", "run", "foreign", "onnx"]
    spec: ModelSpec | None = None
    """What the network is; None: a third-party .onnx file, of which only the signature is known."""
    signature: Signature | None = None
    """Signature of a third-party file."""
    normalization: Normalization | None = None
    """Normalization of a third-party file that takes float images."""
    weights: str
    """`random (seed 0)`, `imagenet (file name)`, or a file's path as given and what was taken from it:
    `k.pth (entry model_ema)`."""
    weights_sha256: str
    """SHA-256 of the state dict (names, shapes and bytes, in the order of the names), or of the third-party file."""
    arguments: SourceArguments | None = None
    """Arguments that load the source again; None if it cannot be named."""
    output_kind: OutputKind | None = None
    """Meaning of the output; None in cards without it: logits, or as the signature says."""

    @pydantic.model_validator(mode="after")
    def _is_described_once(self) -> Source:
        if (self.spec is None) == (self.signature is None):
            raise ValueError("a source has a spec, or the signature of a third-party file")
        return self

    @property
    def is_random(self) -> bool:
        """Whether nobody trained the weights, so that predictions mean nothing."""
        return _RANDOM.fullmatch(self.weights) is not None

    @property
    def network(self) -> ModelSpec:
        """The spec of a network of PyTorch."""
        assert self.spec is not None, self.kind
        return self.spec

    def signature_with(self, input_type: InputType) -> Signature:
        """Return what a file made of it takes and gives."""
        signature = self.signature or signature_of(self.network, input_type)
        if self.signature is not None and input_type == "uint8":
            signature = signature.with_pixel_input()
        return signature.model_copy(update={"output_kind": self.output_kind or signature.output_kind})
