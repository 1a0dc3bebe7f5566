"""Networks with lesions, each a sequence of steps, and how much work their common beginnings save.

A variant says for every place which step runs there: +i is the i-th step whole, -i the i-th step lesioned, counted
from 1. The whole network is (1, 2, ..., n).

Random deletions are nested: one draw is an order in which blocks go, and its k-th variant lacks the first k of it.
Each variant is by itself a uniformly random choice of k blocks, and the k-th differs from the one before in one
place only, so that about half of it has been computed already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from resx.analysis.network_steps import Step
from resx.errors import UsageError

Variant: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How often a block is computed, for one image."""

    shared: int
    """Where variants share what they have in common up to their first difference."""
    separate: int
    """Where every variant is evaluated by itself, from the image on."""

    @property
    def ratio(self) -> float:
        """`shared` as a share of `separate`."""
        return self.shared / max(1, self.separate)


def whole(steps: Sequence[Step]) -> Variant:
    """Return the network without a lesion."""
    return tuple(range(1, len(steps) + 1))


def drop_blocks(steps: Sequence[Step], blocks: Sequence[int]) -> Variant:
    """Return the network without these blocks, named by their numbers."""
    gone = set(blocks)
    return tuple(-place if step.block in gone else place for place, step in enumerate(steps, start=1))


def blocks_of(steps: Sequence[Step]) -> list[Step]:
    """Return the steps that are blocks."""
    return [step for step in steps if step.block]


def deletable(steps: Sequence[Step]) -> list[int]:
    """Return the blocks that random deletions draw from.

    All of a residual network's, as in the paper. Of a network without shortcuts those that keep the shape: for the
    others only a stand-in of this project's could be left.
    """
    return [step.block for step in blocks_of(steps) if step.residual is not None or not step.changes_shape]


def random_deletions(steps: Sequence[Step], *, draws: int, largest: int, seed: int) -> list[list[Variant]]:
    """Return `largest` lists of `draws` variants; those of the k-th list lack k random blocks.

    Raises:
        UsageError: there are fewer blocks than that.
    """
    known = deletable(steps)
    if largest > len(known):
        raise UsageError(f"--max-deleted {largest}: {len(known)} blocks can be removed; give {len(known)} or fewer")
    random = np.random.default_rng([seed, 0])
    orders = [random.permutation(known).tolist() for _ in range(draws)]
    return [[drop_blocks(steps, order[:k]) for order in orders] for k in range(1, largest + 1)]


def exchangeable(steps: Sequence[Step]) -> list[list[int]]:
    """Return the groups of places, from 0, whose blocks take and give one and the same shape; two or more each."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, step in enumerate(steps):
        if step.block and step.shapes[0] == step.shapes[1]:
            groups.setdefault(step.shapes[0], []).append(place)
    return [places for places in groups.values() if len(places) > 1]


def reorder(steps: Sequence[Step], *, swaps: int, random: np.random.Generator) -> Variant:
    """Return the network after `swaps` exchanges of two random blocks of one shape; needs `exchangeable` blocks."""
    order = list(whole(steps))
    groups = exchangeable(steps)
    pairs = np.array([len(places) * (len(places) - 1) for places in groups], dtype=float)
    for _ in range(swaps):
        places = groups[random.choice(len(groups), p=pairs / pairs.sum())]
        one, other = random.choice(places, size=2, replace=False)
        order[one], order[other] = order[other], order[one]
    return tuple(order)


def kendall_tau(steps: Sequence[Step], variant: Variant) -> float:
    """Return the rank correlation of a variant's order of blocks with the network's: 1 is the same, -1 reversed."""
    order = np.array([abs(code) for code, step in zip(variant, steps, strict=True) if step.block])
    later = np.triu_indices(len(order), 1)
    signs = np.sign(order[later[1]] - order[later[0]])
    return float(signs.mean()) if signs.size else 1.0


def work(steps: Sequence[Step], variants: Sequence[Variant]) -> Work:
    """Count the blocks that are computed, with and without sharing; a deleted block's shortcut counts nothing."""
    is_block = np.array([bool(step.block) for step in steps])
    ordered = sorted(set(variants))
    separate = sum(int((is_block & (np.array(variant) > 0)).sum()) for variant in variants)
    shared, before = 0, None
    for variant in ordered:
        common = (
            0
            if before is None
            else next((place for place, (a, b) in enumerate(zip(variant, before, strict=True)) if a != b), len(variant))
        )
        shared += int((is_block & (np.array(variant) > 0))[common:].sum())
        before = variant
    return Work(shared=shared, separate=separate)
