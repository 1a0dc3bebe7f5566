"""The batches of an epoch: drawn, augmented and on their way to the device while the one before is computed.

What is random comes from generators that are seeded with (seed, epoch), so every epoch has an order, an augmentation
and dropped blocks of its own, and depends on nothing that came before. All processes draw the same for the whole batch;
each reads and changes its part of the images.

A thread prepares one batch ahead. For a GPU it copies the batch, out of pinned memory and on a stream of its own, so
neither reading nor the bus holds up the computation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resx.data.augment import BLACK, augment, draw
from resx.data.dataset import Split
from resx.training.config import TrainingConfig
from resx.training.processes import Processes
from resx.training.transforms import draws_seeds

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """This process's part of a step's images."""

    step: int
    """From 0, over the whole run."""
    images: Tensor
    """UINT8 [N, 3, H, W]."""
    targets: Tensor
    """INT64 [N]."""
    seeds: npt.NDArray[np.int64]
    """INT64 [N]: of what the images' transforms draw (`resx.training.transforms`); zeros where there are none."""
    mix_seed: int = 0
    """Of what mixing draws, the same in every process."""
    copied: torch.cuda.Event | None = None
    """When the copy to a GPU is over; None on the CPU."""

    def arrive(self) -> Batch:
        """Let what is computed from now on wait for the copy; this process goes on at once."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.copied)
            for tensor in (self.images, self.targets):  # their memory is the other stream's
                tensor.record_stream(stream)
        return self


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return the number of whole batches; one that takes all where there are fewer images than that."""
    return max(1, num_images // batch_size)


def seed_epoch(seed: int, epoch: int) -> np.random.Generator:
    """Return the generator of an epoch's order and augmentation, and seed PyTorch's, which drops the blocks."""
    random = np.random.default_rng([seed, epoch])
    torch.manual_seed(int(random.integers(2**63)))
    return random


def batches_of(
    train: Split,
    config: TrainingConfig,
    processes: Processes,
    epoch: int,
    random: np.random.Generator,
    edge: tuple[int, int, int] = BLACK,
) -> Iterator[Batch]:
    """Yield this process's part of each batch of an epoch, augmented, in the CPU's memory; edges get that color."""
    order = random.permutation(len(train))
    steps = steps_per_epoch(len(order), config.batch_size)
    for step in range(steps):
        whole = order[step * config.batch_size : (step + 1) * config.batch_size]
        part = processes.part(len(whole))
        draws = draw(
            len(whole), random, max_px=config.shift_px, flip=config.flip, resized_crop=config.resized_crop
        ).part(part)
        seeds = np.zeros(len(whole) + 1, dtype=np.int64)
        if draws_seeds(config):  # so that runs without them draw what they drew before there were any
            seeds = random.integers(2**62, size=len(whole) + 1)
        pixels = augment(train.images[whole[part]], draws, edge=edge)
        targets = torch.from_numpy(train.targets[whole[part]])
        yield Batch(
            step=epoch * steps + step,
            images=torch.from_numpy(pixels),
            targets=targets,
            seeds=seeds[:-1][part],
            mix_seed=int(seeds[-1]),
        )


def send(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches on a device; to a GPU the copies are begun and not waited for."""
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(stream):  # the thread's GPU too, which pinned memory belongs to
            images, targets = (
                tensor.pin_memory().to(device, non_blocking=True) for tensor in (batch.images, batch.targets)
            )
            sent = replace(batch, images=images, targets=targets, copied=stream.record_event())
        yield sent


def prepare_ahead(items: Iterator[Item]) -> Generator[Item]:
    """Yield what an iterator yields, computed by a thread, one item ahead. Its errors are raised here."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="resx-batches") as worker:
        over = object()
        following = worker.submit(next, items, over)
        while (item := following.result()) is not over:
            following = worker.submit(next, items, over)
            yield item  # type: ignore[misc]
