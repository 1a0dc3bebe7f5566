"""Which network a training is of: the variant as it is set, the run that goes on, or the run whose weights it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resx.cli.options.training import NetworkOptions
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.data.dataset import DataSet
    from resx.training.run_origin import Origin
    from resx.training.starting_weights import StartingWeights
    from resx.zoo.spec import ImageFormat, ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class StartingNetwork:
    """What the new run's network comes from."""

    named: ModelSpec
    """The variant."""
    weights: str
    """As the user named them; `none` is random."""
    begun: Origin | None
    """The run that goes on."""
    start: ModelSpec | None = None
    """The network of the run that `weights` name; None for what is no run, and where a run goes on."""

    def require_fitting(self, freeze: str) -> None:
        """Refuse weights of a run of another variant, and random weights that are never to be trained.

        Raises:
            UsageError: they are.
        """
        if self.start is not None and self.start.name != self.named.name:
            raise UsageError(
                f"--weights {self.weights}: a run of {self.start.name}, not of {self.named.name}; train "
                f"{self.start.name}, or give other weights"
            )
        if freeze and self.weights == "none" and self.begun is None:
            raise UsageError(f"--freeze {freeze}: random weights would never be trained; add --weights")

    @property
    def _before(self) -> ModelSpec | None:
        return self.start if self.begun is None else self.begun.spec

    def image_size(self, typed: int | None, data: str) -> int | None:
        """Return the images' size: as typed, else that of the run before; None for the data's own."""
        if typed is not None or self._before is None or (self.begun is None and data.startswith("cifar")):
            return typed
        return self._before.image_size

    def spec(self, options: NetworkOptions, images: DataSet, *, survival: float, has_schedule: bool) -> ModelSpec:
        """Return the network for a data set.

        Args:
            options: what the user set.
            images: whose classes and image format it gets.
            survival: p_L of a network that is new and has none set.
            has_schedule: whether the user set the survival schedule.
        """
        before = self._before
        is_same = before is not None and before.name == self.named.name
        kept = survival if before is None else before.survival
        return options.network(self.named, before).with_changes(
            classes=len(images.labels),
            labels=images.labels,
            image=self._image_format(images.image),
            survival=kept if options.survival is None else options.survival,
            dropped_blocks=before.dropped_blocks if before is not None and is_same else (),
            survival_schedule=(
                options.schedule() if has_schedule or before is None or not is_same else before.survival_schedule
            ),
        )

    def load(self, spec: ModelSpec, *, seed: int, entry: str) -> StartingWeights | None:
        """Load the weights into the network; None where they are random, or where a run goes on.

        Raises:
            UsageError: they do not fit, or an entry is named of what is no file.
        """
        from resx.training.starting_weights import load_starting_weights

        if entry and (self.weights in ("none", "imagenet") or self.start is not None):
            raise UsageError(f"--weights-entry {entry}: selects a part of a file; add --weights FILE")
        if self.begun is not None or self.weights == "none":
            return None
        return load_starting_weights(self.weights, spec, seed=seed, entry=entry)

    def _image_format(self, own: ImageFormat) -> ImageFormat:
        """Return the data's image format with the normalization that the weights were trained with."""
        if self.start is not None:
            return own.model_copy(update={"mean": self.start.mean, "std": self.start.std})
        if self.weights == "imagenet" and self.begun is None:
            from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD

            return own.model_copy(update={"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
        if self.begun is not None and self.begun.training.weights != "none":
            return own.model_copy(update={"mean": self.begun.spec.mean, "std": self.begun.spec.std})
        return own
