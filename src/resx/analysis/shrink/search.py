"""Fewer blocks with the least loss: which ones go is found by measuring.

    1  the cross-entropy without each block that can go, in the network as it now is, on some training images
    2  the few cheapest are taken out in turn, batch norms fitted to what they then see, and measured again
    3  the cheapest of those goes; then 1 again

A block's worth changes as others go, hence the measuring again; and batch norms repair much of some lesions and little
of others, hence the second measurement. The search sees training images
only, so held-out accuracy is not what blocks are chosen by; choosing a size by it is a choice among few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from resx.analysis.lesion import variants as plans
from resx.analysis.lesion.evaluation import evaluate
from resx.analysis.network_steps import Prepare, prepare_steps, steps_of
from resx.data.dataset import DataSet, Split
from resx.errors import ObjectiveMissed, UsageError
from resx.pareto import pareto_front
from resx.training.batch_norms import fit_batch_norms
from resx.training.evaluation import logits
from resx.values import FrozenModel
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec

_BATCH = 128


class BlockLatency(FrozenModel):
    """Where a network's exported graph spends its time, measured in the runtime."""

    total_ms: float
    """Median of one run at batch 1."""
    blocks_ms: dict[int, float]
    """Of each block, by its number; what belongs to none is the rest of the total."""

    def without(self, blocks: Iterable[int]) -> float:
        """Return the total less what these blocks take."""
        return self.total_ms - sum(self.blocks_ms.get(block, 0.0) for block in blocks)


Measure: TypeAlias = Callable[[nn.Module, ModelSpec], BlockLatency]
"""Measures a network on the runtime that will serve it."""


class SearchOptions(FrozenModel):
    """How blocks are searched for."""

    num_images: int = 256
    """Training images that lesions are measured on."""
    shortlist: int = 4
    """Blocks that are tried with batch norms fitted before one goes."""
    num_recalibration_images: int = 1024
    """Training images that batch norms are fitted to; 0 leaves their statistics alone."""
    seed: int = 0
    at_random: bool = False
    """Take out random blocks instead: what a search is compared with."""


class ShrunkenNetwork(FrozenModel):
    """A network of some size."""

    dropped_blocks: tuple[int, ...]
    num_blocks: int
    accuracy: float
    """Held-out."""
    latency_ms: float | None = None
    """Measured on its own exported graph, or, where `predicted`, the whole network's less its blocks'."""
    predicted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """A member with its network, in evaluation mode."""

    member: ShrunkenNetwork
    model: nn.Module
    spec: ModelSpec


def require_removable(spec: ModelSpec, drop: int | None) -> int:
    """Return how many blocks can go.

    Raises:
        UsageError: none can, or fewer than `drop`.
    """
    left = set(spec.architecture.removable_blocks) - set(spec.dropped_blocks)
    if not left:
        reason = spec.architecture.unremovable or "all its removable blocks are removed"
        raise UsageError(f"{spec.name}: no block can be removed: {reason}; use a ResNet or a highway network")
    if drop is not None and drop > len(left):
        reason = f" ({spec.architecture.unremovable})" if spec.architecture.unremovable else ""
        raise UsageError(
            f"--drop {drop}: {len(left)} of {len(spec.kept_blocks)} blocks can be removed{reason}; give fewer"
        )
    return len(left)


def sizes(
    model: nn.Module, spec: ModelSpec, data: DataSet, options: SearchOptions, prepare: Prepare
) -> Iterator[Sized]:
    """Yield the network with one block less, two less, and so on until none can go; the blocks gone are nested."""
    random = np.random.default_rng(options.seed)
    chosen = np.sort(random.permutation(len(data.train))[: options.num_images])
    search = Split(images=data.train.images[chosen], targets=data.train.targets[chosen])
    removable = set(spec.architecture.removable_blocks)
    left = [block for block in spec.kept_blocks if block in removable]
    while left:
        if options.at_random:
            going = int(random.choice(left))
        else:
            going = _cheapest(model, spec, left, search, options, prepare)
        left.remove(going)
        model, spec = drop_block(model, spec, going)
        recalibrate(model, spec, data.train, num_images=options.num_recalibration_images, seed=options.seed)
        yield measure(model, spec, data, prepare)


def measure(model: nn.Module, spec: ModelSpec, data: DataSet, prepare: Prepare) -> Sized:
    """Return a network with its held-out accuracy."""
    steps = steps_of(model, spec)
    tally = evaluate(prepare_steps(steps, prepare), [plans.whole(steps)], data.held_out, spec)
    member = ShrunkenNetwork(
        dropped_blocks=spec.dropped_blocks, num_blocks=len(spec.kept_blocks), accuracy=1.0 - tally.errors()[0]
    )
    return Sized(member=member, model=model, spec=spec)


def drop_block(model: nn.Module, spec: ModelSpec, block: int) -> tuple[nn.Module, ModelSpec]:
    """Return a copy of a network, in evaluation mode, without one block; survival stays what it was."""
    smaller = spec.with_changes(dropped_blocks=tuple(sorted((*spec.dropped_blocks, block))))
    copy = build_from_spec(smaller, seed=0)
    state = model.state_dict()
    copy.load_state_dict({name: state[name] for name in copy.state_dict()})
    return copy.eval(), smaller


def recalibrate(model: nn.Module, spec: ModelSpec, train: Split, *, num_images: int, seed: int) -> None:
    """Fit the batch norms (`fit_batch_norms`) to so many training images, drawn at random; with 0 nothing changes."""
    chosen = np.random.default_rng([seed, 2]).permutation(len(train))[:num_images]
    model.eval()
    if len(chosen):
        batches = np.array_split(chosen, -(-len(chosen) // _BATCH))
        fit_batch_norms(model, spec, (train.images[batch] for batch in batches))


def best_within(found: Sequence[Sized], whole: float, max_drop: float) -> Sized:
    """Return the smallest network whose accuracy is at most `max_drop` below `whole`, both as shares.

    Raises:
        ObjectiveMissed: there is none; the message says what was found.
    """
    fitting = [one for one in found if one.member.accuracy >= whole - max_drop - 1e-9]
    if not fitting:
        best = max(found, key=lambda one: one.member.accuracy).member
        raise ObjectiveMissed(
            f"--max-accuracy-drop {100 * max_drop:g}: no smaller model is within this limit; the best has "
            f"{best.accuracy:.2%} with {best.num_blocks} blocks; the full model has {whole:.2%}; allow "
            f"{100 * (whole - best.accuracy):.2f} or more, or train longer"
        )
    return fitting[-1]


def front(members: Sequence[ShrunkenNetwork]) -> list[ShrunkenNetwork]:
    """Return the members that no other beats: none has fewer blocks and at least their accuracy; largest first."""
    return pareto_front(members, lambda one: (one.num_blocks, -one.accuracy))[::-1]


def _cheapest(
    model: nn.Module, spec: ModelSpec, left: Sequence[int], search: Split, options: SearchOptions, prepare: Prepare
) -> int:
    """Return the block whose removal costs least."""
    steps = steps_of(model, spec)
    tally = evaluate(prepare_steps(steps, prepare), [plans.drop_blocks(steps, [block]) for block in left], search, spec)
    losses = dict(zip(left, tally.losses(), strict=True))
    few = sorted(left, key=losses.__getitem__)[: options.shortlist]
    if options.num_recalibration_images:
        losses = {block: _loss_after(model, spec, block, search) for block in few}
    return min(few, key=losses.__getitem__)


def _loss_after(model: nn.Module, spec: ModelSpec, block: int, search: Split) -> float:
    """Return the mean cross-entropy without a block and with batch norms fitted to the search's images."""
    smaller, smaller_spec = drop_block(model, spec, block)
    recalibrate(smaller, smaller_spec, search, num_images=len(search), seed=0)
    answers = logits(smaller, smaller_spec, search.images)
    return float(F.cross_entropy(answers, torch.from_numpy(search.targets)).nan_to_num(1e6, 1e6))
