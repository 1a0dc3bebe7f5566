"""Lesion studies: Veit et al. 2016 (arXiv:1605.06431), section 4.

    4.1  the error after deleting each single block
    4.2  the error after deleting k random blocks
    4.3  the error after k exchanges of two random blocks of one shape, against Kendall's tau of the order

A study is a list of variants, planned from its seed alone. Its folder holds `lesions.partial.json` while it runs
(what is counted so far, replaced whole every few seconds) and `lesions.json` at its end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pydantic

from resx.analysis.lesion import variants as plans
from resx.analysis.lesion.evaluation import Tally, evaluate
from resx.analysis.lesion.variants import Variant
from resx.analysis.network_steps import Step
from resx.data.dataset import DataSet
from resx.errors import UsageError
from resx.files.json_faults import explain_fault
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import write_atomic
from resx.values import FrozenModel
from resx.zoo.spec import ModelSpec

RESULT, PARTIAL = "lesions.json", "lesions.partial.json"
SWAPS = (1, 2, 4, 8, 16, 32)

OnImages: TypeAlias = Callable[[int, int], None]
"""Called with (images done, images in all)."""


class LesionPlan(FrozenModel):
    """What decides the numbers of a study; one is continued only as it was begun."""

    model: str
    weights_sha256: str
    data: str
    num_images: int
    draws: int
    """Random choices per number of deletions and of exchanges."""
    max_deleted: int
    seed: int


class BlockLesion(FrozenModel):
    """The network without one block."""

    block: int
    """Block number from 1, counted as in the whole network."""
    name: str
    changes_shape: bool
    """Where its output has another shape than its input, what remains is the shortcut, or a stand-in for one."""
    error: float
    loss: float
    """Mean cross-entropy."""


class ErrorSpread(FrozenModel):
    """Errors of the random choices for one k."""

    k: int
    mean: float
    std: float
    """Standard deviation of the draws; 0 with one draw."""
    lowest: float
    highest: float


class Reordering(FrozenModel):
    """One random order."""

    swaps: int
    kendall_tau: float
    error: float


class LesionCost(FrozenModel):
    """Work and time of the study."""

    num_variants: int
    block_evaluations: int
    """Block evaluations per image."""
    naive_block_evaluations: int
    """Block evaluations per image if every network were evaluated separately."""
    ratio: float
    singles_ratio: float
    """The same ratio for the deletions of single blocks."""
    seconds: float
    """Seconds of this command; an interrupted study took more."""


class LesionStudy(FrozenModel):
    """Results of a lesion study."""

    plan: LesionPlan
    family: str
    has_shortcuts: bool
    num_blocks: int
    error: float
    """Error of the whole network."""
    loss: float
    chance_error: float
    """Error of always answering the most frequent class."""
    median_single_increase: float
    """Median over the blocks of how much the error grows without one of them."""
    blocks: tuple[BlockLesion, ...]
    deleted: tuple[ErrorSpread, ...]
    swapped: tuple[ErrorSpread, ...]
    reorderings: tuple[Reordering, ...]
    cost: LesionCost


class _Partial(FrozenModel):
    plan: LesionPlan
    num_images: int
    wrong: tuple[int, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Variants:
    """The variants of a study, by what they are for."""

    singles: list[Variant]
    deleted: list[list[Variant]]
    swapped: list[tuple[int, list[Variant]]]

    def all(self, whole: Variant) -> list[Variant]:
        """Return them in the order in which they are evaluated and stored."""
        return [
            whole,
            *self.singles,
            *(one for group in self.deleted for one in group),
            *(one for _, group in self.swapped for one in group),
        ]


def require_same_classes(spec: ModelSpec, data: DataSet) -> None:
    """Check that a data set has a network's classes.

    Raises:
        UsageError: it has others.
    """
    if len(data.labels) != spec.classes:
        raise UsageError(
            f"--data {data.name}: has {len(data.labels)} classes, {spec.name} has {spec.classes}; use the data set "
            "it was trained on"
        )
    if spec.labels and spec.labels != data.labels:
        ours, theirs = next((a, b) for a, b in zip(spec.labels, data.labels, strict=True) if a != b)
        raise UsageError(
            f"--data {data.name}: has a class {theirs!r} where {spec.name} has {ours!r}; use the data set it was "
            "trained on"
        )


def study(
    steps: Sequence[Step],
    fast: Sequence[Step],
    spec: ModelSpec,
    data: DataSet,
    plan: LesionPlan,
    folder: Path | None,
    on_images: OnImages = lambda _done, _all: None,
    save_every_s: float = 5.0,
) -> LesionStudy:
    """Measure what lesions do to a network on its held-out images; `folder` None keeps nothing.

    `fast` are the same steps in a form that computes faster (`anatomy.prepared`). A study that `folder` holds a
    part of goes on from there.

    Raises:
        UsageError: there are fewer blocks than are to go, or `folder` holds part of another study.
    """
    planned = _plan(steps, plan)
    everything = planned.all(plans.whole(steps))
    stored = None if folder is None else _read_stored(folder / PARTIAL, plan)
    started = saved = time.monotonic()

    def keep(tally: Tally) -> None:
        nonlocal saved
        on_images(tally.num_images, len(data.held_out))
        if folder is not None and time.monotonic() - saved > save_every_s:
            _store(folder / PARTIAL, plan, tally)
            saved = time.monotonic()

    tally = evaluate(fast, everything, data.held_out, spec, tally=stored, on_tally=keep)
    found = _conclude(steps, spec, data, plan, planned, tally, seconds=time.monotonic() - started)
    if folder is not None:
        write_atomic(folder / RESULT, found.model_dump_json(indent=1) + "\n")
        (folder / PARTIAL).unlink(missing_ok=True)
    return found


def _plan(steps: Sequence[Step], plan: LesionPlan) -> _Variants:
    random = np.random.default_rng([plan.seed, 1])
    swaps = SWAPS if plans.exchangeable(steps) else ()
    return _Variants(
        singles=[plans.drop_blocks(steps, [step.block]) for step in plans.blocks_of(steps)],
        deleted=plans.random_deletions(steps, draws=plan.draws, largest=plan.max_deleted, seed=plan.seed),
        swapped=[(k, [plans.reorder(steps, swaps=k, random=random) for _ in range(plan.draws)]) for k in swaps],
    )


def _conclude(
    steps: Sequence[Step],
    spec: ModelSpec,
    data: DataSet,
    plan: LesionPlan,
    planned: _Variants,
    tally: Tally,
    *,
    seconds: float,
) -> LesionStudy:
    errors, losses = iter(tally.errors()), iter(tally.losses())
    error, loss = next(errors), next(losses)
    blocks = tuple(
        BlockLesion(
            block=step.block, name=step.name, changes_shape=step.changes_shape, error=next(errors), loss=next(losses)
        )
        for step in plans.blocks_of(steps)
    )
    deleted = tuple(_spread(k, [next(errors) for _ in group]) for k, group in enumerate(planned.deleted, start=1))
    reorderings = tuple(
        Reordering(swaps=k, kendall_tau=plans.kendall_tau(steps, variant), error=next(errors))
        for k, group in planned.swapped
        for variant in group
    )
    frequent = np.bincount(data.held_out.targets, minlength=spec.classes).max() / len(data.held_out)
    return LesionStudy(
        plan=plan,
        family=spec.architecture.family,
        has_shortcuts=not spec.architecture.undroppable,
        num_blocks=len(blocks),
        error=error,
        loss=loss,
        chance_error=1.0 - float(frequent),
        median_single_increase=statistics.median(block.error - error for block in blocks),
        blocks=blocks,
        deleted=deleted,
        swapped=tuple(_spread(k, [one.error for one in reorderings if one.swaps == k]) for k, _ in planned.swapped),
        reorderings=reorderings,
        cost=_cost(steps, planned, seconds),
    )


def _cost(steps: Sequence[Step], planned: _Variants, seconds: float) -> LesionCost:
    everything = planned.all(plans.whole(steps))
    work = plans.work(steps, everything)
    return LesionCost(
        num_variants=len(everything),
        block_evaluations=work.shared,
        naive_block_evaluations=work.separate,
        ratio=work.ratio,
        singles_ratio=plans.work(steps, planned.singles).ratio,
        seconds=round(seconds, 3),
    )


def _spread(k: int, errors: Sequence[float]) -> ErrorSpread:
    return ErrorSpread(
        k=k,
        mean=statistics.mean(errors),
        std=statistics.stdev(errors) if len(errors) > 1 else 0.0,
        lowest=min(errors),
        highest=max(errors),
    )


def _store(path: Path, plan: LesionPlan, tally: Tally) -> None:
    partial = _Partial(plan=plan, num_images=tally.num_images, wrong=tally.wrong, loss=tally.loss)
    write_atomic(path, partial.model_dump_json() + "\n")


def _read_stored(path: Path, plan: LesionPlan) -> Tally | None:
    """Read what an interrupted study counted; None where there is none."""
    if not path.is_file():
        return None
    content = read_bounded(path, MAX_TEXT_BYTES)
    try:
        partial = _Partial.model_validate_json(content)
    except pydantic.ValidationError as error:
        raise UsageError(f"{path}: {explain_fault(error, content, 'start again with --force')}") from error
    if partial.plan != plan:
        before, now = partial.plan.model_dump(), plan.model_dump()
        different = ", ".join(f"{key} was {before[key]}, is {now[key]}" for key in now if before[key] != now[key])
        raise UsageError(f"{path}: belongs to a different study ({different}); repeat that command, or use --force")
    return Tally(num_images=partial.num_images, wrong=partial.wrong, loss=partial.loss)
