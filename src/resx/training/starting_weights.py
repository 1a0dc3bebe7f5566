"""What a run starts from when its weights are not random: published weights, a file, or another run.

The weights go into the network of the new run. Its last layer stays as it was drawn from the seed where the weights
have another number of classes, or are known to be of other classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from resx.errors import UsageError, nearest
from resx.training.runs import checkpoint
from resx.zoo.building import build_from_spec
from resx.zoo.spec import SPEC_FILE, ModelSpec, read_spec
from resx.zoo.weights import pretrained

RANDOM, IMAGENET = "none", "imagenet"


@dataclass(frozen=True, kw_only=True, slots=True)
class StartingWeights:
    """All weights that a network starts training with."""

    tensors: dict[str, Tensor]
    words: str
    """Where they came from, and what became of the last layer, as one line."""


def run_of(weights: str) -> ModelSpec | None:
    """Return the network of the run that weights name; None if they name no run.

    Raises:
        UsageError: the folder is no run.
    """
    if weights in (RANDOM, IMAGENET) or not Path(weights).is_dir():
        return None
    if not checkpoint.is_run(Path(weights)):
        raise UsageError(f"--weights {weights}: this folder is not a run; give a run, a file of weights or imagenet")
    return read_spec(Path(weights) / SPEC_FILE)


def load_starting_weights(weights: str, spec: ModelSpec, *, seed: int, entry: str = "") -> StartingWeights:
    """Load weights into the network of a spec.

    Args:
        weights: `imagenet`, the path of a file, or the folder of a run.
        spec: the network that is to be trained, with its classes' labels.
        seed: of a new last layer.
        entry: which part of a file to take, if it holds the network several times.

    Raises:
        UsageError: they are missing, damaged, or another network's.
        MissingCapability: published weights could not be downloaded.
    """
    labels: tuple[str, ...] = ()
    if weights == IMAGENET:
        published = pretrained.published_weights(spec.name)
        labels, path = published.labels, pretrained.fetch(published.url, published.file_name)
    elif (of_run := run_of(weights)) is not None:
        _, read = checkpoint.load_run(Path(weights))  # says what is wrong with it
        labels, path = read.labels or of_run.labels, Path(weights) / checkpoint.WEIGHTS
    else:
        path = Path(weights)
        if not path.exists():
            near = nearest(weights, (IMAGENET, RANDOM))
            raise UsageError(f"--weights {weights}: no such file or run{near}; give imagenet, a run or a file")
    model = build_from_spec(spec, seed=seed)
    where, left_out = pretrained.load_for_training(model, path, entry=entry, labels=labels, own=spec.labels)
    words = f"Weights from {where}"
    if left_out is not None:
        words += f"; new last layer for {spec.classes} classes"
        others = " others" if left_out == spec.classes else ""
        words += f" (the weights have {left_out or 'none'}{others})"
    return StartingWeights(tensors=model.state_dict(), words=words)
