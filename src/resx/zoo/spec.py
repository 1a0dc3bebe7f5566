"""What a network is, as a frozen value that travels as JSON beside the weights. Needs no torch.

The architecture is its family's own value (`resx.zoo.architectures`); everything else (classes, image,
survival) is common to all. `build_from_spec` turns a spec into a module; equal specs give equal modules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import pydantic
from pydantic import FailFast, Field

from resx.errors import UsageError, nearest
from resx.files.json_faults import explain_fault, first_fault
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.names import LABEL_RULE, is_label
from resx.text import one_line
from resx.values import FrozenModel
from resx.zoo.architectures import Architecture
from resx.zoo.limits import MAX_CLASSES, MAX_IMAGE_SIZE, require_size

__all__ = [
    "CROPS", "IMAGENET_MEAN", "IMAGENET_STD", "INTERPOLATIONS", "SPEC_FILE", "SURVIVAL_SCHEDULES", "Channels", "Crop",
    "FrozenModel", "ImageFormat", "Interpolation", "ModelSpec", "SurvivalSchedule", "parse_channels", "read_spec",
    "survival_probabilities",
]  # fmt: skip

SurvivalSchedule: TypeAlias = Literal["linear", "uniform"]
SURVIVAL_SCHEDULES: tuple[SurvivalSchedule, ...] = ("linear", "uniform")
Channel: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Channels: TypeAlias = tuple[Channel, Channel, Channel]
ImageSize: TypeAlias = Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
Resize: TypeAlias = Annotated[int, Field(ge=1, le=4 * MAX_IMAGE_SIZE)]
Labels: TypeAlias = Annotated[tuple[str, ...], Field(max_length=MAX_CLASSES), FailFast()]
Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic")
Crop: TypeAlias = Literal["center", "squash"]
"""How an image that is not square becomes square: cut at its longer side, or squeezed (timm's crop_mode)."""
CROPS: tuple[Crop, ...] = ("center", "squash")

SPEC_FILE = "spec.json"

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
_SMALLEST_STD = 1e-6


def require_divisors(std: Channels) -> Channels:
    """Return the standard deviations of a file, which pixels are divided by.

    Raises:
        ValueError: one is so near to 0 that nothing can be divided by it.
    """
    if not all(abs(number) >= _SMALLEST_STD for number in std):
        raise ValueError(f"std={list(std)}: give numbers from {_SMALLEST_STD:f}")
    return std


def parse_channels(what: str, text: str, *, is_std: bool) -> Channels:
    """Return a number for each channel of an RGB image, from text such as `0.485,0.456,0.406`.

    Args:
        what: that the text was given for, as an error names it.
        text: from a command line or somebody else's file.
        is_std: they divide, and so must not be near 0.

    Raises:
        UsageError: they are not three, or no numbers that float32 can normalize with.
    """
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{what} {text[:80]!r}: give three numbers, as 0.485,0.456,0.406") from None
    smallest = _SMALLEST_STD if is_std else 0.0
    if not all(smallest <= abs(number) <= 1e6 for number in (red, green, blue)):  # NaN is not
        rule = "from 0.000001 to 1000000" if is_std else "of at most 1000000"
        raise UsageError(f"{what} {text[:80]!r}: give three numbers {rule}")
    return red, green, blue


class ModelSpec(FrozenModel):
    """A network, ready to be built: architecture, classes, image and survival schedule."""

    name: str
    """The variant's name; it travels into file names and the model's metadata."""
    architecture: Architecture
    classes: int = Field(ge=2, le=MAX_CLASSES)
    labels: Labels = ()
    """One name per class, or none where they are not known."""
    image_size: ImageSize
    """Height and width of the input in pixels."""
    resize: Resize
    """The shorter side is brought to this many pixels before the centre crop of `image_size`; with the crop `squash`,
    both sides are."""
    mean: Channels
    """Mean of each channel, for pixels in [0, 1]."""
    std: Channels
    interpolation: Interpolation = "bilinear"
    """The filter that resizes, always with antialiasing."""
    crop: Crop = "center"
    survival: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    """p_L, the last block's survival probability; 1 is constant depth."""
    survival_schedule: SurvivalSchedule = "linear"
    """How the other blocks' probabilities follow from p_L: along a straight line from 1, or all equal to it."""
    dropped_blocks: tuple[int, ...] = ()
    """Blocks that the network is built without, counted from 1 as p_l's l. The others keep their names (the
    state dict has gaps) and the survival probabilities that they have in the whole network."""

    @pydantic.model_validator(mode="after")
    def _is_not_too_large(self) -> ModelSpec:
        require_size(num_weights=self.classes * self.architecture.num_features, num_blocks=self.architecture.num_blocks)
        return self

    @pydantic.field_validator("std")
    @classmethod
    def _divides(cls, std: Channels) -> Channels:
        return require_divisors(std)

    @pydantic.model_validator(mode="after")
    def _labels_fit_classes(self) -> ModelSpec:
        if self.labels and len(self.labels) != self.classes:
            raise ValueError(f"{len(self.labels)} labels for {self.classes} classes: give one per class, or none")
        return self

    @pydantic.model_validator(mode="after")
    def _survives(self) -> ModelSpec:
        if self.survival < 1 and self.architecture.undroppable:
            raise UsageError(f"{self.name}: survival={self.survival}: {self.architecture.undroppable}; give 1")
        return self

    @pydantic.model_validator(mode="after")
    def _blocks_can_go(self) -> ModelSpec:
        if list(self.dropped_blocks) != sorted(set(self.dropped_blocks)):
            raise UsageError(f"dropped_blocks={self.dropped_blocks}: name each block once, first to last")
        staying = sorted(set(self.dropped_blocks) - set(self.architecture.removable_blocks))
        if staying:
            reason = self.architecture.unremovable or f"it has {self.architecture.num_blocks} blocks"
            raise UsageError(
                f"{self.name}: dropped_blocks={self.dropped_blocks}: block {staying[0]} cannot be removed: {reason}"
            )
        return self

    @property
    def kept_blocks(self) -> tuple[int, ...]:
        """The blocks that the network is built with, counted from 1 in the whole network."""
        return tuple(block for block in range(1, self.architecture.num_blocks + 1) if block not in self.dropped_blocks)

    @pydantic.model_validator(mode="after")
    def _image_is_large_enough(self) -> ModelSpec:
        smallest = self.architecture.smallest_image
        if self.image_size < smallest:
            raise UsageError(f"{self.name}: image_size={self.image_size}: too small: the minimum is {smallest} pixels")
        return self

    def with_changes(
        self,
        *,
        classes: int | None = None,
        survival: float | None = None,
        survival_schedule: SurvivalSchedule | None = None,
        labels: tuple[str, ...] | None = None,
        image: ImageFormat | None = None,
        dropped_blocks: tuple[int, ...] | None = None,
    ) -> ModelSpec:
        """Return this spec with the given fields replaced and everything checked again.

        Raises:
            UsageError: a value is out of its range.
        """
        if survival is not None and not 0 < survival <= 1:
            raise UsageError(f"survival={survival}: give a probability in (0, 1]")
        if classes is not None and classes < 2:
            raise UsageError(f"classes={classes}: give 2 or more")
        fields = self.model_dump()
        if classes is not None and classes != self.classes:
            fields |= {"classes": classes, "labels": ()}
        if survival is not None:
            fields["survival"] = survival
        if survival_schedule is not None:
            fields["survival_schedule"] = survival_schedule
        if labels is not None:
            fields["labels"] = labels
        if image is not None:
            fields |= image.model_dump()
        if dropped_blocks is not None:
            fields["dropped_blocks"] = dropped_blocks
        _require_labels(labels or ())
        try:
            return ModelSpec.model_validate(fields)
        except pydantic.ValidationError as error:
            raise UsageError(f"{self.name}: {first_fault(error)}") from error

    def with_settings(self, settings: Sequence[str]) -> ModelSpec:
        """Return this spec with its number of classes or fields of its architecture replaced, given as `field=value`.

        A value is JSON (`cardinality=16`, `stage_depths=[2,2,2]`) or a word (`variant=original`).

        Raises:
            UsageError: there is no such field, or the architecture does not allow the value.
        """
        changes: dict[str, object] = {}
        known = ["classes", *(name for name in type(self.architecture).model_fields if name != "family")]
        classes: int | None = None
        for setting in settings:
            field, separator, value = setting.partition("=")
            if not separator or field not in known:
                near = nearest(field, known)
                raise UsageError(f"--set {setting}: {self.name} has {', '.join(known)}{near}; give field=value")
            if field == "classes":
                if not (value.isascii() and value.isdigit()):
                    raise UsageError(f"--set {setting}: give a whole number of 2 or more")
                classes = int(value)
                continue
            try:
                changes[field] = json.loads(value)
            except (json.JSONDecodeError, RecursionError):
                changes[field] = value
        fields = self.model_dump()
        fields["architecture"] |= changes
        try:
            return ModelSpec.model_validate(fields).with_changes(classes=classes)
        except pydantic.ValidationError as error:
            raise UsageError(f"--set {' '.join(settings)}: {first_fault(error)}") from error


class ImageFormat(FrozenModel):
    """How images reach a network: size in pixels, resize before the crop, normalisation, filter, kind of crop."""

    image_size: ImageSize
    resize: Resize
    mean: Channels
    std: Channels
    interpolation: Interpolation = "bilinear"
    crop: Crop = "center"


def survival_probabilities(num_blocks: int, last: float, schedule: SurvivalSchedule = "linear") -> list[float]:
    """Return p_l for l = 1..L (Huang et al. 2016, section 3).

    `linear`: p_l = 1 - l/L (1 - p_L), equation 4; their sum, the expected number of surviving blocks, is
    (3L - 1) / 4 for p_L = 0.5. `uniform`: p_l = p_L.
    """
    assert 0 < last <= 1, last
    if schedule == "uniform":
        return [last] * num_blocks
    return [1.0 - block / num_blocks * (1.0 - last) for block in range(1, num_blocks + 1)]


def read_spec(path: Path) -> ModelSpec:
    """Read a spec from its JSON file.

    Raises:
        UsageError: the file is missing, is no JSON, does not describe a network, or has labels that labels.txt
            cannot hold.
    """
    try:
        content = read_bounded(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; a run folder has this file") from error
    try:
        spec = ModelSpec.model_validate_json(content)
        _require_labels(spec.labels)
        return spec
    except pydantic.ValidationError as error:
        raise UsageError(f"{path}: {explain_fault(error, content, 'train or copy the run again')}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _require_labels(labels: Sequence[str]) -> None:
    # Not a validator: the card of a version that is published already has to be readable still.
    if bad := [label for label in labels if not is_label(label)]:
        raise UsageError(
            f"label '{one_line(bad[0][:100])}': {LABEL_RULE}; rename the class in the data and train again"
        )
