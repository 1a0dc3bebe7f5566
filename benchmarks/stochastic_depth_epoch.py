"""What stochastic depth saves: the time of training steps with p_L = 0.5 against constant depth.

    python benchmarks/stochastic_depth_epoch.py [--pairs 30] [--device gpu --precision auto]

Both networks are trained in one process on the same batches, one step of the one and one of the other in
turn, so that whatever else the machine does slows both; an epoch is so many of these steps. Every step is
forward, backward and update, as `resx train` does it: with `--precision auto` on a GPU in bf16 or fp16 and with
channels last, for both networks alike. The ratio is that of all steps' times together, with the quartiles of the
single pairs; the ratio of CPU times leaves out waiting for other programs. Beside it stand the number of blocks
that ran in a step and what the linear schedule expects, (3 L - 1) / 4 for p_L = 0.5 (Huang et al. 2016, section 3).

Ends with 1 if the ratio is above the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.errors import MissingCapability
from resx.gpus import WISHES
from resx.training.config import TrainingPrecision
from resx.training.devices import (
    AUTOCAST_TYPES,
    PRECISION_WISHES,
    TORCH_NAMES,
    choose_device,
    choose_precision,
    exact_convolutions,
    name_of,
)
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from resx.zoo.families.stochastic_depth import StochasticBranch

BAR = 0.80
_WARM_UP = 2
"""Steps that are not timed: they allocate, and choose algorithms."""


@dataclass(kw_only=True, slots=True)
class Contender:
    """A network in training, and how many blocks have run in it so far."""

    model: nn.Module
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    precision: TrainingPrecision
    num_runs: int = 0
    num_steps: int = 0

    def step(self, images_NCHW: Tensor, targets: Tensor) -> None:
        """Update the weights once."""
        self.optimizer.zero_grad(set_to_none=True)
        kind = images_NCHW.device.type
        with torch.autocast(kind, dtype=AUTOCAST_TYPES[self.precision], enabled=self.precision != "fp32"):
            loss = F.cross_entropy(self.model(images_NCHW), targets)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.num_steps += 1

    def count(self, *_: object) -> None:
        """Note that a block has run; hangs on the last layer of each branch."""
        self.num_runs += 1


def contender(name: str, survival: float, place: torch.device, precision: TrainingPrecision) -> Contender:
    """Build a network that counts the blocks it runs."""
    spec = variant(name).spec.with_changes(survival=survival)
    model = build_from_spec(spec, seed=0).train().to(place).to(memory_format=layout_of(place, precision))
    made = Contender(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True),
        scaler=torch.amp.GradScaler(place.type, enabled=precision == "fp16"),
        precision=precision,
    )
    for module in model.modules():
        if isinstance(module, StochasticBranch):
            module.branch_end().register_forward_hook(made.count)
    return made


def layout_of(place: torch.device, precision: TrainingPrecision) -> torch.memory_format:
    """Return the memory layout that `resx train` takes by itself."""
    return torch.channels_last if place.type == "cuda" and precision != "fp32" else torch.contiguous_format


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """How long one step took."""

    wall_s: float
    cpu_s: float


def timed_step(network: Contender, images_NCHW: Tensor, targets: Tensor) -> StepTime:
    """Take a step and time it, to the end of what a GPU computes."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    network.step(images_NCHW, targets)
    if images_NCHW.is_cuda:
        torch.cuda.synchronize(images_NCHW.device)
    return StepTime(wall_s=time.perf_counter() - wall_s, cpu_s=time.process_time() - cpu_s)


def main() -> int:
    """Return the exit code: 1 if the bar is missed, 4 without the GPU that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet110")
    parser.add_argument("--survival", type=float, default=0.5)
    parser.add_argument("--pairs", type=int, default=30, help="steps of each network")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="one is the least disturbed by other programs")
    parser.add_argument("--device", choices=WISHES, default="cpu")
    parser.add_argument("--precision", choices=PRECISION_WISHES, default="fp32")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        device = choose_device(options.device)
        precision, place = choose_precision(options.precision, device), torch.device(TORCH_NAMES[device])
    except MissingCapability as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    with exact_convolutions():
        return compare(options, place, precision)


def compare(options: argparse.Namespace, place: torch.device, precision: TrainingPrecision) -> int:
    """Measure, print, and say whether the bar is met."""
    constant = contender(options.model, 1.0, place, precision)
    stochastic = contender(options.model, options.survival, place, precision)
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    layout = layout_of(place, precision)
    pairs: list[tuple[StepTime, StepTime]] = []
    for number in range(-_WARM_UP, options.pairs):
        if number == 0:
            pairs.clear()
            for network in (stochastic, constant):
                network.num_runs = network.num_steps = 0
        images, targets = torch.randn(shape), torch.randint(0, 10, shape[:1])
        batch = images.to(place).contiguous(memory_format=layout), targets.to(place)
        pairs.append((timed_step(stochastic, *batch), timed_step(constant, *batch)))
    how = f"{name_of(place)}, {precision}, channels {'last' if layout == torch.channels_last else 'first'}"
    report = [
        f"{options.model}, batch {options.batch_size}, {options.image_size} px, {options.threads} thread(s), "
        f"{options.pairs} steps each; both on {how}",
        blocks_line(stochastic, constant),
    ]
    ratio = sum(fast.wall_s for fast, _ in pairs) / sum(slow.wall_s for _, slow in pairs)
    report += [ratio_line(pairs, ratio, options.survival), f"bar {BAR:.2f}: {'met' if ratio <= BAR else 'MISSED'}"]
    print("\n".join(report))
    return 0 if ratio <= BAR else 1


def blocks_line(stochastic: Contender, constant: Contender) -> str:
    """Say how many blocks ran in a step, and how many the schedule expects."""
    survivals = [module.survival for module in stochastic.model.modules() if isinstance(module, StochasticBranch)]
    return (
        f"blocks per step: {stochastic.num_runs / stochastic.num_steps:.1f} ran, {sum(survivals):.1f} expected of "
        f"{len(survivals)}; constant depth {constant.num_runs / constant.num_steps:.1f}"
    )


def ratio_line(pairs: list[tuple[StepTime, StepTime]], ratio: float, survival: float) -> str:
    """Say what a step takes, and the ratios with their spread."""
    low, middle, high = statistics.quantiles((fast.wall_s / slow.wall_s for fast, slow in pairs), n=4)
    cpu = sum(fast.cpu_s for fast, _ in pairs) / sum(slow.cpu_s for _, slow in pairs)
    fast_ms, slow_ms = (1000 * statistics.median(pair[index].wall_s for pair in pairs) for index in (0, 1))
    return (
        f"step: p_L = {survival:g} {fast_ms:.0f} ms, constant depth {slow_ms:.0f} ms (medians)\n"
        f"ratio {ratio:.3f}; of single pairs {low:.3f} / {middle:.3f} / {high:.3f} (quartiles); of CPU time {cpu:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
