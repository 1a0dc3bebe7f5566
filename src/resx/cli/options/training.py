"""How a network is trained: the network, the recipe, the computer, and the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from resx.cli.options.aliases import Alias, survival_of
from resx.cli.options.fine_tuning import AugmentationOptions, ChoiceOptions
from resx.cli.options.grouping import output_option
from resx.cli.options.resuming import Force, IgnoreTimes, Resume
from resx.cli.options.source import Settings
from resx.cli.options.validation import choose, finite
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.gpus import Device
    from resx.zoo.spec import ModelSpec, SurvivalSchedule

_source_option = partial(typer.Option, rich_help_panel="Source")
_recipe_option = partial(typer.Option, rich_help_panel="Recipe")
_computer_option = partial(typer.Option, rich_help_panel="Computation")
RUNS = Path("runs")

Survival: TypeAlias = Annotated[
    float | None,
    _source_option(
        callback=finite,
        metavar="P",
        help="p_L: probability that the last block survives a step; 1 is constant depth. Default: the recipe's.",
    ),
    Alias(name="--drop-path", read=survival_of),
    Alias(name="--stochastic-depth-prob", read=survival_of),
]
SurvivalScheduleName: TypeAlias = Annotated[
    str,
    _source_option(
        metavar="[linear|uniform]", help="linear: from 1 at the first block to p_L; uniform: p_L for every block."
    ),
]
TrainedSize: TypeAlias = Annotated[
    int | None, _source_option(min=8, metavar="N", help="Image size in pixels. Default: the data's own.")
]
RecipeName: TypeAlias = Annotated[
    str | None,
    _recipe_option(
        metavar="[small-data|fine-tuning|digits|tv-v2|timm-a3|he2015-cifar|he2015-imagenet|he2016-preact|"
        "huang2016-depth|huang2016-depth-1202|huang2017-dense|xie2017-resnext|srivastava2015-highway]",
        help="The settings to start from. Default: for a folder small-data, or fine-tuning with --weights; digits for "
        "the digits and MNIST; he2015-cifar for CIFAR.",
    ),
]
Epochs: TypeAlias = Annotated[
    int | None, _recipe_option(min=1, metavar="N", help="Passes over the training data. Default: the recipe's.")
]
StepSize: TypeAlias = Annotated[
    int | None, _recipe_option(min=2, metavar="N", help="Images per step, over all processes. Default: the recipe's.")
]
LearningRate: TypeAlias = Annotated[
    float | None,
    _recipe_option(min=1e-9, callback=finite, metavar="X", help="Peak learning rate. Default: the recipe's."),
    Alias(name="--lr"),
]
WeightDecay: TypeAlias = Annotated[
    float | None, _recipe_option(min=0, callback=finite, metavar="X", help="Weight decay. Default: the recipe's.")
]
Validation: TypeAlias = Annotated[
    float | None,
    _recipe_option(
        min=0,
        max=0.9,
        callback=finite,
        metavar="SHARE",
        help="Share of the training images set aside to choose the best epoch. Default: 0; the held-out images "
        "choose it.",
    ),
]
SkippedBlocks: TypeAlias = Annotated[
    str | None,
    _recipe_option(
        metavar="[rest|move]",
        help="What a step does to blocks that stochastic depth skipped: nothing, or move by weight decay and momentum "
        "as in the paper's code. Default: the recipe's.",
    ),
]
ScheduleName: TypeAlias = Annotated[
    str | None,
    _recipe_option(
        metavar="[cosine|step]",
        help="cosine: falls to zero along half a cosine; step: a tenth after the recipe's milestones, or after 1/2 and "
        "3/4 of the epochs. Default: the recipe's.",
    ),
]
WarmupEpochs: TypeAlias = Annotated[
    int | None,
    _recipe_option(
        min=0, metavar="N", help="Epochs in which the rate rises to its peak (0: none). Default: the recipe's."
    ),
]
LabelSmoothing: TypeAlias = Annotated[
    float | None,
    _recipe_option(min=0, max=0.99, callback=finite, metavar="X", help="Label smoothing. Default: the recipe's."),
]
ClipNorm: TypeAlias = Annotated[
    float | None,
    _recipe_option(min=0, callback=finite, metavar="X", help="Clip the gradient norm (0: off). Default: the recipe's."),
    Alias(name="--clip-grad"),
]
TrainingDevice: TypeAlias = Annotated[
    str, _computer_option(metavar="[auto|cpu|gpu]", help="auto takes a GPU where there is one.")
]
TrainingPrecision: TypeAlias = Annotated[
    str | None,
    _computer_option(
        metavar="[auto|fp32|bf16|fp16]",
        help="Numbers of the forward pass. auto: bf16 on a GPU or CPU that computes it, else fp16 on a GPU and fp32 on "
        "a CPU. Default: fp32.",
    ),
]
ChannelsLast: TypeAlias = Annotated[
    bool | None,
    _computer_option(
        "--channels-last/--channels-first",
        metavar="",
        show_default=False,
        help="Memory layout while training. Default: last on a GPU in bf16 or fp16.",
    ),
]
Compiled: TypeAlias = Annotated[
    bool,
    _computer_option("--compile", metavar="", help="Compile the network (torch.compile): slower start, faster steps."),
]
RunOutput: TypeAlias = Annotated[
    Path | None, output_option("-o", "--output", metavar="DIR", help="The run's folder. Default: runs/NAME.")
]
Extend: TypeAlias = Annotated[
    bool,
    output_option("--extend", metavar="", help="With --resume: train to --epochs in total; the schedule is stretched."),
]
EventFiles: TypeAlias = Annotated[
    bool, output_option("--tensorboard", metavar="", help="Write event files into the run too.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkOptions:
    """What is trained, beside the variant; None where the recipe or the data say it."""

    survival: Survival = None
    survival_schedule: SurvivalScheduleName = "linear"
    settings: Settings = None
    image_size: TrainedSize = None

    def require_free_classes(self, data: str) -> None:
        """Refuse a number of classes, which the data decide.

        Raises:
            UsageError: one was set.
        """
        if any(setting.partition("=")[0] == "classes" for setting in self.settings or []):
            raise UsageError(f"--set classes: the data set {data} has its own; remove it")

    def network(self, named: ModelSpec, begun: ModelSpec | None) -> ModelSpec:
        """Return the variant as it is set; a run that goes on, or gives its weights, keeps its own where nothing is.

        A name may mean another network by now than when the run began.
        """
        if begun is not None and begun.name == named.name and not self.settings:
            return begun
        return named.with_settings(self.settings or [])

    def schedule(self) -> SurvivalSchedule:
        """Return how the survival probability falls from block to block."""
        from resx.zoo.spec import SURVIVAL_SCHEDULES

        return choose("--survival-schedule", self.survival_schedule, SURVIVAL_SCHEDULES)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeOptions:
    """A recipe, and what is to be different from it; None where nothing is."""

    recipe: RecipeName = None
    epochs: Epochs = None
    batch_size: StepSize = None
    learning_rate: LearningRate = None
    weight_decay: WeightDecay = None
    skipped_blocks: SkippedBlocks = None
    validation: Validation = None
    schedule: ScheduleName = None
    warmup_epochs: WarmupEpochs = None
    label_smoothing: LabelSmoothing = None
    clip_norm: ClipNorm = None
    augmentation: AugmentationOptions
    averaging: ChoiceOptions

    def changes(self) -> dict[str, object]:
        """Return what differs from the recipe."""
        from resx.training.config import SCHEDULES, SKIPPED_BLOCKS

        if self.skipped_blocks is not None:
            choose("--skipped-blocks", self.skipped_blocks, SKIPPED_BLOCKS)
        if self.schedule is not None:
            choose("--schedule", self.schedule, SCHEDULES)
        warmup = {} if self.warmup_epochs is None else {"warmup_epochs": self.warmup_epochs, "warmup": "linear"}
        given = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "skipped_blocks": self.skipped_blocks,
            "validation": self.validation,
            "schedule": self.schedule,
            "label_smoothing": self.label_smoothing,
            "clip_norm": self.clip_norm,
        }
        changed: dict[str, object] = {key: value for key, value in given.items() if value is not None}
        if self.warmup_epochs == 0:
            warmup = {"warmup": "none"}
        return changed | warmup | self.augmentation.changes() | self.averaging.changes()


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputationOptions:
    """What computes, and in which numbers."""

    device: TrainingDevice = "auto"
    precision: TrainingPrecision = None
    channels_last: ChannelsLast = None
    compiled: Compiled = False

    def chosen_device(self) -> Device:
        """Return the device that is wished for, or the one that is here.

        Raises:
            MissingCapability: it is not here.
        """
        from resx.gpus import WISHES
        from resx.training.devices import choose_device

        return choose_device(choose("--device", self.device, WISHES))

    def settings(self, device: Device, usual_precision: str) -> dict[str, Any]:
        """Return what of the training's settings is said by these options; `usual_precision` where none was typed."""
        from resx.training.devices import PRECISION_WISHES, choose_precision

        precision = choose_precision(choose("--precision", self.precision or usual_precision, PRECISION_WISHES), device)
        usual_layout = device == "gpu" and precision != "fp32"
        return {
            "precision": precision,
            "device": device,
            "channels_last": usual_layout if self.channels_last is None else self.channels_last,
            "compiled": self.compiled,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Where the run is kept, and what is to be done with one that is there."""

    output: RunOutput = None
    resume: Resume = False
    extend: Extend = False
    force: Force = False
    ignore_times: IgnoreTimes = False
    tensorboard: EventFiles = False

    def require_fitting(self, epochs: int | None) -> None:
        """Refuse options that contradict one another, or mean nothing without another.

        Raises:
            UsageError: they do.
        """
        if self.resume and self.force:
            raise UsageError("--resume and --force: give one of them")
        if self.ignore_times and not self.resume:
            raise UsageError("--ignore-times: applies to an earlier run's files; add --resume")
        if self.extend and not (self.resume and epochs):
            raise UsageError("--extend: needs --resume and --epochs, the total number of epochs")

    def folder(self, name: str) -> Path:
        """Return the run's folder: as typed, or that of the variant.

        Raises:
            UsageError: it was not typed, and is there already and neither resumed nor deleted.
        """
        if self.output is not None:
            return self.output
        usual = RUNS / name
        if usual.exists() and not (self.resume or self.force):
            raise UsageError(f"{usual}: exists already; choose another -o, or --resume or --force it")
        return usual
