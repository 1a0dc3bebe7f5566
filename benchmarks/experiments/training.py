"""Networks trained for the experiments: settings that a row's key says in words, and one run folder for each.

All experiments share the runs: a network that two of them need is trained once.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from resx.data.dataset import DataSet, Split
from resx.data.loading import load_data
from resx.errors import ResxError, UsageError
from resx.files.fingerprint import fingerprint_of_content
from resx.training.config import TrainingConfig
from resx.training.evaluation import accuracy
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from resx.training.runs import checkpoint
from resx.training.runs.checkpoint import Metrics
from resx.zoo.architectures import Architecture
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec

IMAGE_SIZE = 16
"""Pixels: the digits have 8, MNIST 28. Processors train on 16 about four times as fast as on 32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A network and how it is trained; everything but the seed."""

    network: str
    """As rows and tables name it; a variant's name unless `architecture` is given."""
    epochs: int
    architecture: Architecture | None = None
    survival: float = 1.0
    data: str = "digits"
    noise: float = 0.0
    """Share of the training images that get the label of another class, drawn at random."""
    learning_rate: float = 0.05
    batch_size: int = 32

    @property
    def title(self) -> str:
        """The network as rows name it."""
        return self.network if self.survival == 1 else f"{self.network}, p_L = {self.survival:g}"

    @property
    def data_title(self) -> str:
        """The data as rows name them."""
        noise = f", {self.noise:.0%} of the labels wrong" if self.noise else ""
        return f"{self.data}, {IMAGE_SIZE} px{noise}"

    @property
    def recipe_title(self) -> str:
        """The recipe as rows name it."""
        return f"digits recipe, batch {self.batch_size}, rate {self.learning_rate:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained network, in evaluation mode, and how its training went."""

    model: nn.Module
    spec: ModelSpec
    data: DataSet
    loss: float
    training_error: float
    accuracy: float
    seconds: float


def train_network(setting: Setting, seed: int, runs: Path) -> Trained | None:
    """Train a network, or read it where an earlier call finished; None where the training diverges.

    Raises:
        UsageError: the data or the network cannot be had.
    """
    data = load(setting.data, setting.noise, seed)
    folder = runs / _slug(f"{setting.title} {setting.data_title} {setting.recipe_title} {setting.epochs} {seed}")
    measured = folder.with_suffix(".json")
    if not (measured.exists() and checkpoint.is_run(folder)):
        facts = _train(setting, seed, data, folder)
        if facts is None:
            return None
        measured.write_text(json.dumps(facts))
    model, spec = checkpoint.load_run(folder)
    facts = json.loads(measured.read_text())
    return Trained(model=model, spec=spec, data=data, training_error=1 - accuracy(model, spec, data.train), **facts)


def _train(setting: Setting, seed: int, data: DataSet, folder: Path) -> dict[str, float] | None:
    """Return loss, accuracy and seconds of a training from its beginning."""
    config: TrainingConfig = configure(
        setting.data,
        "digits",
        {
            "epochs": setting.epochs,
            "batch_size": setting.batch_size,
            "learning_rate": setting.learning_rate,
            "seed": seed,
            "channels_last": True,
        },
    )
    metrics: list[Metrics] = []
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    try:
        run = TrainingRun(
            spec=spec_of(setting, data), data=data, config=config, folder=folder, force=checkpoint.is_run(folder)
        )
        train(run, on_epoch=metrics.append)
    except UsageError:
        raise
    except ResxError as error:  # a network that diverges is a result too
        print(f"{setting.title}, seed {seed}: {error}", file=sys.stderr)
        return None
    last = metrics[-1]
    return {
        "loss": float(last["loss"]),
        "accuracy": float(last["accuracy"]),
        "seconds": round(time.process_time() - started, 2),
    }


def spec_of(setting: Setting, data: DataSet) -> ModelSpec:
    """Return the network of a setting for some data."""
    spec = variant("resnet20" if setting.architecture else setting.network).spec
    if setting.architecture is not None:
        spec = spec.model_copy(update={"name": _slug(setting.network), "architecture": setting.architecture})
    return spec.with_changes(classes=len(data.labels), labels=data.labels, image=data.image, survival=setting.survival)


def load(name: str, noise: float, seed: int) -> DataSet:
    """Return a data set, some of whose training labels are wrong."""
    return with_noisy_labels(_load(name), noise, seed) if noise else _load(name)


@functools.cache
def _load(name: str) -> DataSet:
    return load_data(name, image_size=IMAGE_SIZE)


def with_noisy_labels(data: DataSet, share: float, seed: int) -> DataSet:
    """Return the data with that share of the training images, rounded, moved to a class that is not theirs.

    Which images, and to which class, the seed alone decides; held-out labels stay.
    """
    random = np.random.default_rng([seed, 20])
    targets = data.train.targets.copy()
    chosen = random.permutation(len(targets))[: round(share * len(targets))]
    targets[chosen] = (targets[chosen] + random.integers(1, len(data.labels), len(chosen))) % len(data.labels)
    return replace(
        data,
        train=Split(images=data.train.images, targets=targets),
        fingerprint=fingerprint_of_content(f"{data.name} with noisy labels", (targets.tobytes(),)),
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-").replace(".", "_")
