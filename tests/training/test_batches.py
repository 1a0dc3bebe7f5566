"""Batches: every epoch draws anew, and a thread prepares one ahead."""

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from resx.data.dataset import DataSet, Images, Split
from resx.errors import UsageError
from resx.training.batches import Batch, batches_of, prepare_ahead, seed_epoch, send
from resx.training.config import TrainingConfig
from resx.training.loop import TrainingRun, train
from resx.training.processes import Processes
from resx.zoo.spec import ModelSpec

CPU = torch.device("cpu")


@dataclasses.dataclass
class Watched:
    """Images that remember which of them were asked for."""

    images: Images
    asked_for: list[list[int]] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
        assert not isinstance(chosen, slice)
        self.asked_for.append(chosen.tolist())
        return self.images[chosen]


def epoch_of(train_part: Split, config: TrainingConfig, epoch: int, processes: Processes) -> list[Batch]:
    return list(batches_of(train_part, config, processes, epoch, seed_epoch(config.seed, epoch)))


def test_every_epoch_has_its_own_order_and_drops_its_own_blocks(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    orders, seeds = [], []
    for name in ("one", "again"):
        watched = Watched(small_data.train.images)
        data = dataclasses.replace(small_data, train=Split(images=watched, targets=small_data.train.targets))
        drawn: list[int] = []
        train(
            TrainingRun(spec=small_spec, data=data, config=config, folder=tmp_path / name),
            on_step=lambda _done, _all, drawn=drawn: drawn.append(torch.initial_seed()),
        )
        read = watched.asked_for
        orders.append([tuple(itertools.chain(*read[begin : begin + 6])) for begin in (0, 6, 12)])
        seeds.append([drawn[index] for index in (0, 6, 12)])

    assert all(sorted(order) == list(range(96)) for order in orders[0])
    assert len({*orders[0]}) == config.epochs
    assert len({*seeds[0]}) == config.epochs
    assert (orders[0], seeds[0]) == (orders[1], seeds[1])


@pytest.mark.parametrize("flip", [False, True])
def test_every_epoch_moves_and_mirrors_an_image_in_its_own_way(
    small_data: DataSet, config: TrainingConfig, flip: bool
) -> None:
    # One image 96 times: whatever the order, what differs is the augmentation.
    same = Split(images=np.repeat(small_data.train.images[:1], 96, axis=0), targets=small_data.train.targets)
    changed = config.model_copy(update={"flip": flip, "shift_px": 0 if flip else 2})
    pixels = [torch.cat([batch.images for batch in epoch_of(same, changed, epoch, Processes())]) for epoch in (0, 1, 0)]
    assert not pixels[0].equal(pixels[1])
    assert pixels[0].equal(pixels[2])


def test_processes_get_the_parts_of_the_batch_that_one_process_gets(
    small_data: DataSet, config: TrainingConfig
) -> None:
    whole = epoch_of(small_data.train, config, 1, Processes())
    parts = [epoch_of(small_data.train, config, 1, Processes(rank=rank, count=2)) for rank in (0, 1)]
    assert [batch.step for batch in whole] == list(range(6, 12))
    for one, first, second in zip(whole, *parts, strict=True):
        assert torch.cat([first.images, second.images]).equal(one.images)
        assert torch.cat([first.targets, second.targets]).equal(one.targets)


def test_on_the_cpu_nothing_is_copied(small_data: DataSet, config: TrainingConfig) -> None:
    host = epoch_of(small_data.train, config, 0, Processes())
    sent = list(send(iter(host), CPU))
    assert [one.arrive() is one for one in sent] == [True] * 6
    assert all(one is other for one, other in zip(sent, host, strict=True))


def test_one_item_is_prepared_ahead_in_a_thread_and_no_more() -> None:
    made: list[int] = []
    threads: set[int] = set()

    def numbers() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            threads.add(threading.get_ident())
            yield number

    items = prepare_ahead(numbers())
    assert next(items) == 0
    assert next(items) == 1
    assert len(made) <= 3
    assert list(items) == [2, 3, 4]
    assert threading.get_ident() not in threads


def test_an_error_of_what_prepares_is_raised_where_the_item_is_wanted() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise UsageError("cat.png: truncated PNG file")

    items = prepare_ahead(broken())
    assert next(items) == 1
    with pytest.raises(UsageError, match="truncated PNG"):
        next(items)


def test_whoever_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    items = prepare_ahead(itertools.count())
    assert next(items) == 0
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before
