"""What a lesion study saves: all single deletions of resnet110 at once against as many separate evaluations.

    python benchmarks/lesion_time.py [--images 128] [--rounds 3]

Separate: for each block a network without it, evaluated by `resx.training.evaluation.accuracy`, with PyTorch's own
number of threads. At once: `resx.analysis`, preparation included. Both classify the same held-out digits with the
same weights, in turn and in one process, and their errors must agree. Time is wall time; the ratio of CPU times
stands beside it, as other programs on the machine slow the two unequally.

Ends with 1 if the ratio of the rounds' times together is above the bar, or the errors differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from resx.analysis.lesion import variants as plans
from resx.analysis.lesion.evaluation import evaluate
from resx.analysis.network_steps import prepare_steps, steps_of
from resx.data.dataset import Split
from resx.data.loading import load_data
from resx.export.graph.batchnorm_fusion import fuse
from resx.training.evaluation import accuracy, normalize
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec

BAR = 0.20


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet110")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    data = load_data("digits", image_size=options.image_size)
    spec = variant(options.model).spec.with_changes(classes=10, labels=data.labels, image=data.image)
    split = Split(images=data.held_out.images[: options.images], targets=data.held_out.targets[: options.images])
    model = network(spec, data.train)
    saved: list[float] = []
    times: list[tuple[float, float, float, float]] = []
    differing = 0
    for number in range(options.rounds):
        slow_errors, *slow = timed(lambda: separately(model, spec, split))
        (fast_errors, share), *fast = timed(lambda: at_once(model, spec, split))
        differing = max(differing, int(np.abs(np.subtract(slow_errors, fast_errors)).max() * len(split) + 0.5))
        times.append((*slow, *fast))
        saved.append(share)
        print(f"round {number + 1}: separately {slow[0]:.1f} s, at once {fast[0]:.1f} s: {fast[0] / slow[0]:.3f}")
    slow_s, slow_cpu_s, fast_s, fast_cpu_s = (sum(column) for column in zip(*times, strict=True))
    print(
        f"{options.model}, {len(split)} images of {options.image_size} px, {torch.get_num_threads()} threads: "
        f"block evaluations {saved[0]:.3f}, time {fast_s / slow_s:.3f}, CPU time {fast_cpu_s / slow_cpu_s:.3f} "
        f"of separate evaluations; errors differ by {differing} images at most"
    )
    met = fast_s / slow_s <= BAR and differing <= 1
    print(f"bar {BAR:.2f}: {'met' if met else 'MISSED'}")
    return 0 if met else 1


def network(spec: ModelSpec, train: Split) -> nn.Module:
    """Build a network of random weights whose batch norms know the data, so that its activations stay finite."""
    model = build_from_spec(spec, seed=0)
    with torch.no_grad():
        model(normalize(train.images[:64], spec, torch.device("cpu")))
    return model.eval()


def separately(model: nn.Module, spec: ModelSpec, split: Split) -> list[float]:
    """Return the error without each block, one whole evaluation after the other."""
    errors = []
    for block in spec.kept_blocks:
        lesioned = Lesioned(model, block)
        with lesioned:
            errors.append(1.0 - accuracy(model, spec, split))
    return errors


class Lesioned:
    """Inside `with`, the network runs without one block's branch."""

    def __init__(self, model: nn.Module, block: int) -> None:
        self.block = list(model.blocks())[block - 1]

    def __enter__(self) -> None:
        self.block.joined = self.block.skipped

    def __exit__(self, *_: object) -> None:
        del self.block.joined


def at_once(model: nn.Module, spec: ModelSpec, split: Split) -> tuple[list[float], float]:
    """Return the same errors, and the share of block evaluations that they took."""
    steps = steps_of(model, spec)
    singles = [plans.drop_blocks(steps, [step.block]) for step in plans.blocks_of(steps)]
    fast = prepare_steps(steps, lambda part: fuse(part, target="gpu"))
    return evaluate(fast, singles, split, spec).errors(), plans.work(steps, singles).ratio


def timed(measured: Callable[[], object]) -> tuple[object, float, float]:
    """Return what a function gives, its wall time and its CPU time in seconds."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = measured()
    return result, time.perf_counter() - wall_s, time.process_time() - cpu_s


if __name__ == "__main__":
    sys.exit(main())
