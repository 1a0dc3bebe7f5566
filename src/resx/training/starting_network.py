"""Which network a training is of: the variant as it is set, the run that goes on, or the run whose weights it takes."""

from __future__ import annotations

from dataclasses import dataclass

from resx.data.dataset import DataSet
from resx.errors import UsageError
from resx.training.runs.run_origin import Origin
from resx.training.starting_weights import StartingWeights, load_starting_weights, run_of
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, ImageFormat, ModelSpec, SurvivalSchedule


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
            raise UsageError(f"--freeze {freeze}: random stages would never be trained; add --weights")

    @property
    def before(self) -> ModelSpec | None:
        """The network of the run that goes on, or gives its weights; None where there is none."""
        return self.start if self.begun is None else self.begun.spec

    def image_size(self, asked: int | None, data: str) -> int | None:
        """Return the images' size: as asked for, else that of the run before; None for the data's own."""
        if asked is not None or self.before is None or (self.begun is None and data.startswith("cifar")):
            return asked
        return self.before.image_size

    def spec(
        self,
        network: ModelSpec,
        images: DataSet,
        *,
        survival: float | None,
        usual_survival: float,
        schedule: SurvivalSchedule | None,
    ) -> ModelSpec:
        """Return a network for a data set.

        Args:
            network: the variant as it is set, or the network before.
            images: whose classes and image format it gets.
            survival: p_L; None is that of the run before.
            usual_survival: p_L where there is no run before.
            schedule: of the survival probabilities; None is that of the run before, or linear.
        """
        before = self.before if self.before is not None and self.before.name == self.named.name else None
        kept = usual_survival if self.before is None else self.before.survival
        return network.with_changes(
            classes=len(images.labels),
            labels=images.labels,
            image=self._image_format(images.image),
            survival=kept if survival is None else survival,
            dropped_blocks=() if before is None else before.dropped_blocks,
            survival_schedule=schedule or ("linear" if before is None else before.survival_schedule),
        )

    def load(self, spec: ModelSpec, *, seed: int, entry: str) -> StartingWeights | None:
        """Load the weights into the network; None where they are random, or where a run goes on.

        Raises:
            UsageError: they do not fit, or an entry is named of what is no file.
        """
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
            return own.model_copy(update={"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
        if self.begun is not None and self.begun.training.weights != "none":
            return own.model_copy(update={"mean": self.begun.spec.mean, "std": self.begun.spec.std})
        return own


def find_starting_network(named: ModelSpec, weights: str, freeze: str, begun: Origin | None = None) -> StartingNetwork:
    """Return what the network of a training comes from.

    Args:
        named: the variant.
        weights: as the user named them.
        freeze: the last stage that is not to be trained; empty is none.
        begun: the run that goes on; None for a new one.

    Raises:
        UsageError: the weights are of a run of another variant, or of no run, or random ones were never trained.
    """
    start = run_of(weights) if begun is None else None
    found = StartingNetwork(named=named, weights=weights, begun=begun, start=start)
    found.require_fitting(freeze)
    return found
