"""Evaluate many variants of a network at once: what they have in common is computed once.

The variants form a tree whose root is the image and whose edges are steps. It is walked depth first, the largest
branch last, so that no more activations are held than log2 of the number of variants. A few images at a time go
down the whole tree, few enough that their activations stay in a core's cache; each core has images of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from resx.analysis.lesion.variants import Variant
from resx.analysis.network_steps import Step
from resx.data.dataset import Split
from resx.machine import usable_cores
from resx.training.evaluation import normalize
from resx.zoo.spec import ModelSpec

IMAGES_AT_ONCE = 16
"""A basic block's activations of 16 channels at 32x32 pixels are 1 MB for these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What variants, in their order, made of the first images."""

    num_images: int
    wrong: tuple[int, ...]
    """How many images each variant classified wrongly."""
    loss: tuple[float, ...]
    """Sum of cross-entropies of each variant."""

    def errors(self) -> list[float]:
        """Return each variant's share of wrong images."""
        return [wrong / self.num_images for wrong in self.wrong]

    def losses(self) -> list[float]:
        """Return each variant's mean cross-entropy."""
        return [loss / self.num_images for loss in self.loss]


OnTally: TypeAlias = Callable[[Tally], None]
"""Called with the tally so far whenever more images are done."""


def begun(num_variants: int) -> Tally:
    """Return the tally before the first image."""
    return Tally(num_images=0, wrong=(0,) * num_variants, loss=(0.0,) * num_variants)


def evaluate(
    steps: Sequence[Step],
    variants: Sequence[Variant],
    split: Split,
    spec: ModelSpec,
    *,
    tally: Tally | None = None,
    on_tally: OnTally = lambda _tally: None,
) -> Tally:
    """Return what the variants make of a split's images, going on from `tally` (None: from the first image).

    An answer does not depend on which images are computed together, nor on where the evaluation was interrupted.
    """
    tally = begun(len(variants)) if tally is None else tally
    ordered = sorted(set(variants))
    place = {variant: index for index, variant in enumerate(ordered)}
    places = np.array([place[variant] for variant in variants])
    starts = range(tally.num_images, len(split), IMAGES_AT_ONCE)

    def judged(start: int) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        chosen = slice(start, min(start + IMAGES_AT_ONCE, len(split)))
        targets = torch.from_numpy(split.targets[chosen])
        x_NCHW = normalize(split.images[chosen], spec, torch.device("cpu"))
        wrong, loss = np.zeros(len(ordered), np.int64), np.zeros(len(ordered))
        with torch.inference_mode():
            for first, last, logits in _leaves(steps, ordered, x_NCHW.contiguous(memory_format=torch.channels_last)):
                wrong[first:last] = int((logits.argmax(1) != targets).sum())
                # A lesion may blow activations up; an infinite loss would spoil the mean of every other image.
                loss[first:last] = float(F.cross_entropy(logits, targets, reduction="sum").nan_to_num(1e6, 1e6))
        return len(targets), wrong[places], loss[places]

    for num_images, wrong, loss in _in_parallel(judged, starts):
        tally = Tally(
            num_images=tally.num_images + num_images,
            wrong=tuple((np.array(tally.wrong) + wrong).tolist()),
            loss=tuple((np.array(tally.loss) + loss).tolist()),
        )
        on_tally(tally)
    return tally


def _leaves(steps: Sequence[Step], ordered: Sequence[Variant], x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (first, last + 1, logits) for each run of equal variants; they are sorted."""
    waiting = [(0, len(ordered), 0, x)]
    while waiting:
        first, last, depth, x = waiting.pop()
        while depth < len(steps):
            groups = _groups(ordered, first, last, depth)
            if len(groups) > 1:
                # The last to be pushed is the next to be popped: small groups go first, the largest goes on here.
                *small, (first, last) = sorted(groups, key=lambda group: group[1] - group[0])
                waiting += [(first, last, depth, x)]
                waiting += [(begin, end, depth, x) for begin, end in reversed(small)]
                break
            x = _run(steps, ordered[first][depth], x)
            depth += 1
        else:
            yield first, last, x


def _groups(ordered: Sequence[Variant], first: int, last: int, depth: int) -> list[tuple[int, int]]:
    """Cut sorted variants, equal up to `depth`, where they differ there."""
    if ordered[first][depth] == ordered[last - 1][depth]:
        return [(first, last)]
    cuts = [index for index in range(first + 1, last) if ordered[index][depth] != ordered[index - 1][depth]]
    return list(zip([first, *cuts], [*cuts, last], strict=True))


def _run(steps: Sequence[Step], code: int, x: Tensor) -> Tensor:
    step = steps[abs(code) - 1]
    if code > 0:
        return step.whole(x)
    assert step.lesioned is not None
    return step.lesioned(x)


def _in_parallel(
    judged: Callable[[int], tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64]]], starts: range
) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Yield `judged` of each start, in order, computed by as many threads as this process has cores."""
    num_workers = usable_cores()
    with _one_thread_per_operation(), ThreadPoolExecutor(num_workers) as pool:
        running: list[Future[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64]]]] = []
        try:
            for start in starts:
                running.append(pool.submit(judged, start))
                if len(running) > num_workers:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            for future in running:
                future.cancel()


@contextlib.contextmanager
def _one_thread_per_operation() -> Iterator[None]:
    """Keep torch from using several cores for one convolution: they would wait for each other after each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
