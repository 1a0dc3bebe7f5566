"""What a training run was asked to do, as a frozen value that is stored with it. Needs no torch."""

import math
from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field, field_validator

from resx.gpus import Device
from resx.values import FrozenModel

Schedule: TypeAlias = Literal["cosine", "step"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "step")
OptimizerName: TypeAlias = Literal["sgd", "lamb"]
LossName: TypeAlias = Literal["cross-entropy", "binary"]
Augmentation: TypeAlias = Literal["none", "randaugment", "trivialaugment"]
AUGMENTATIONS: tuple[Augmentation, ...] = ("randaugment", "trivialaugment", "none")
ClassWeights: TypeAlias = Literal["none", "balanced"]
CLASS_WEIGHTS: tuple[ClassWeights, ...] = ("balanced", "none")
BestBy: TypeAlias = Literal["accuracy", "loss", "balanced-accuracy"]
BEST_BY: tuple[BestBy, ...] = ("accuracy", "loss", "balanced-accuracy")
Warmup: TypeAlias = Literal["none", "linear", "tenth"]
Padding: TypeAlias = Literal["zeros", "mean"]
SkippedBlocks: TypeAlias = Literal["rest", "move"]
SKIPPED_BLOCKS: tuple[SkippedBlocks, ...] = ("rest", "move")
TrainingPrecision: TypeAlias = Literal["fp32", "bf16", "fp16"]

HOW_COMPUTED = frozenset({"device", "channels_last", "compiled", "num_processes"})
"""Settings that change a run by rounding alone: one that is resumed may have others. Precision is not one of them."""


class Recipe(FrozenModel):
    """Everything that a paper says about its training. The defaults are those of the digits."""

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int = Field(default=15, ge=1, le=1_000_000)
    batch_size: int = Field(default=16, ge=2, le=1_000_000)
    """Images per step, over all processes together."""
    learning_rate: float = Field(default=0.05, gt=0)
    """At the peak."""
    optimizer: OptimizerName = "sgd"
    """`sgd`: with momentum; `lamb`: You et al. 2019, which ignores `momentum` and `nesterov`."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    decay_biases: bool = True
    """Whether weight decay is on biases too."""
    decay_norms: bool = True
    """Whether weight decay is on batch norms too."""
    skipped_blocks: SkippedBlocks = "rest"
    """What a step does with the weights of a block that stochastic depth skipped: they `rest`, or they `move` by
    weight decay and by the momentum they have, as with Torch7's sgd in the published code."""
    schedule: Schedule = "cosine"
    """`cosine`: along half a cosine to zero; `step`: a tenth after each milestone."""
    milestones: tuple[float, ...] = ()
    """For `step`: shares of the epochs in (0, 1), so that a shorter run keeps the schedule's form."""
    warmup: Warmup = "linear"
    """Over the first epochs: rising from zero, or at a tenth of the peak throughout."""
    warmup_epochs: int = Field(default=1, ge=1, le=1_000_000)
    shift_px: int = Field(default=2, ge=0, le=4096)
    """Augmentation: each training image moves by up to this many pixels, which is the papers' pad and random crop."""
    padding: Padding = "zeros"
    """What a moved image leaves bare: black, or the mean color, which is what zeros are in normalised images."""
    resized_crop: bool = False
    """Augmentation: a part of each training image, of 8 to 100 % of its area, is enlarged to the image's size."""
    flip: bool = False
    """Augmentation: half of the training images are mirrored left to right."""
    augment: Augmentation = "none"
    """Augmentation: RandAugment (arXiv:1909.13719) or TrivialAugment (arXiv:2103.10158), of torchvision."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """Of RandAugment, whose scale ends at 30."""
    random_erasing: float = Field(default=0.0, ge=0, le=1)
    """Augmentation: probability that a rectangle of an image gets the mean color (arXiv:1708.04896)."""
    mixup: float = Field(default=0.0, ge=0, le=100)
    """Alpha of the beta distribution that two images are mixed by (arXiv:1710.09412); 0: off."""
    cutmix: float = Field(default=0.0, ge=0, le=100)
    """Alpha of the beta distribution of how much of an image is another's (arXiv:1905.04899); 0: off. With `mixup`,
    each step draws one of the two."""
    loss: LossName = "cross-entropy"
    """`binary`: binary cross-entropy of each class, every class that a mixed image has a fifth of being right."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: ClassWeights = "none"
    """`balanced`: an image counts N / (classes x images of its class)."""
    clip_norm: float = Field(default=0.0, ge=0)
    """Largest L2 norm of all gradients together; 0 leaves them alone."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the moving average of the weights, which is then evaluated and published; 0: off."""
    freeze: str = Field(default="", max_length=64)
    """The last stage that is not trained (`optimization/stages.py`); `all` is everything but the head; empty: none."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each stage's learning rate is this times the following stage's; the head has the whole rate."""
    best_by: BestBy = "accuracy"
    """What `best` is chosen by: the highest accuracy, the lowest loss, the highest mean of the classes' accuracies."""
    patience: int = Field(default=0, ge=0, le=1_000_000)
    """Training ends after so many epochs without a better one; 0: never early."""
    validation: float = Field(default=0.0, ge=0, le=0.9)
    """Share of the training images that is held out of training, to choose the best epoch on; 0: the best epoch is
    chosen on the held-out images."""

    @field_validator("schedule", mode="before")
    @classmethod
    def _read_earlier_schedule(cls, value: object) -> object:
        """Take the name that files had before."""
        return "step" if value == "steps" else value


class TrainingConfig(Recipe):
    """A recipe with the data and the machine it is used on.

    A run is resumed only with the configuration it was begun with, but for HOW_COMPUTED.
    """

    data: str
    recipe: str = "digits"
    """The name of the recipe that the other values began as."""
    weights: str = "none"
    """Where the run's first weights came from, as the user named it: `imagenet`, a file or a run; `none` is random."""
    precision: TrainingPrecision = "fp32"
    """Of the forward pass (torch.autocast); weights and their updates are FP32 always."""
    device: Device = "cpu"
    channels_last: bool = False
    """Memory layout of weights and activations while training: NHWC instead of NCHW. Files are the same."""
    compiled: bool = False
    """Whether the forward and backward pass are compiled (torch.compile)."""
    num_processes: int = Field(default=1, ge=1)
    """That share each batch."""
    skip_bad: bool = False
    """Train without the images of a folder that cannot be read."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("device", mode="before")
    @classmethod
    def _read_earlier_name(cls, value: object) -> object:
        """Take PyTorch's name for a GPU, which files had before."""
        return "gpu" if value == "cuda" else value


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0 over the whole run."""
    peak, total = recipe.learning_rate, recipe.epochs * steps_per_epoch
    begin = 0 if recipe.warmup == "none" else recipe.warmup_epochs * steps_per_epoch
    if step < begin:
        return peak * ((step + 1) / begin if recipe.warmup == "linear" else 0.1)
    if recipe.schedule == "step":
        # A share such as 32,000 / 63,960 is rounded; the step that it stands for is not.
        return peak * 0.1 ** sum(step >= milestone * total - 1e-6 for milestone in recipe.milestones)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - begin) / max(1, total - begin)))
