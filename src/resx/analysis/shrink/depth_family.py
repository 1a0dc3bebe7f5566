"""A run's family: the sizes that it can be shrunk to, kept beside it, and the few of them that are worth having.

    RUN/family/KEY/sizes.json    every size: the blocks that are gone, held-out accuracy, latency by blocks
    RUN/family/KEY/N-blocks/     a size as a run like any other, made when it is first wanted

KEY is the hash of the run's files and of how was searched, so nothing here is ever stale: a run that is trained on
gets another folder, and what was exported from the old one can still be verified.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pydantic

from resx.analysis.network_steps import Prepare
from resx.analysis.shrink import search
from resx.analysis.shrink.search import Measure, SearchOptions, ShrunkenNetwork, Sized
from resx.analysis.shrink.shrunken_run import publish_run
from resx.data.dataset import DataSet
from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import sha256_of, write_atomic
from resx.training.runs import checkpoint
from resx.values import FrozenModel
from resx.zoo.building import build_from_spec
from resx.zoo.spec import SPEC_FILE, read_spec

FOLDER, SIZES = "family", "sizes.json"
OnSize: TypeAlias = Callable[[int, int], None]
"""Told how many blocks are gone, and how many can go."""


class Sizes(FrozenModel):
    """What a search found."""

    data: str
    """The data set."""
    search: SearchOptions
    members: tuple[ShrunkenNetwork, ...]
    """Largest first, the whole network before all; latencies are the whole graph's less the blocks that are gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthFamily:
    """A run, its sizes, and where they are kept."""

    run: Path
    folder: Path
    sizes: Sizes

    @property
    def whole(self) -> ShrunkenNetwork:
        """The network that was trained."""
        return self.sizes.members[0]


def family_of(
    run: Path,
    data: DataSet,
    options: SearchOptions,
    *,
    prepare: Prepare,
    measure: Measure,
    on_size: OnSize = lambda _gone, _most: None,
) -> DepthFamily:
    """Search a run's sizes, or read what the same search found before.

    Two that search the same wait for each other. `measure` is asked for the whole network only.

    Raises:
        UsageError: the folder has no run, or no block of it can go.
    """
    spec = read_spec(run / SPEC_FILE)
    most = search.require_removable(spec, None)
    folder = run / FOLDER / _key(run, data, options)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        found = _read(folder / SIZES)
        if found is None:
            model, spec = checkpoint.load_run(run)
            times = measure(model, spec)
            whole = search.measure(model, spec, data, prepare).member
            members = [whole.model_copy(update={"latency_ms": times.total_ms})]
            for sized in search.sizes(model, spec, data, options, prepare):
                gone = set(sized.member.dropped_blocks) - set(spec.dropped_blocks)
                latency = {"latency_ms": times.without(gone), "predicted": True}
                members.append(sized.member.model_copy(update=latency))
                on_size(len(members) - 1, most)
            found = Sizes(data=data.name, search=options, members=tuple(members))
            write_atomic(folder / SIZES, found.model_dump_json(indent=2) + "\n")
    return DepthFamily(run=run, folder=folder, sizes=found)


def run_of(family: DepthFamily, member: ShrunkenNetwork, data: DataSet) -> Path:
    """Return the run of a member: the family's own for the whole network, else one that is made if it is not there."""
    if member == family.whole:
        return family.run
    folder = family.folder / f"{member.num_blocks}-blocks"
    with exclusive(family.folder):
        if not folder.exists():
            publish_run(
                folder,
                rebuild(family.run, member, data, family.sizes.search),
                family.whole,
                family.run,
                data,
                search=family.sizes.search,
                finetune_epochs=0,
            )
    return folder


def rebuild(run: Path, member: ShrunkenNetwork, data: DataSet, options: SearchOptions) -> Sized:
    """Return the network that the search had at this size.

    Its weights are the run's, and batch norms are fitted from nothing, so the way there leaves no trace.
    """
    model, spec = checkpoint.load_run(run)
    smaller = spec.with_changes(dropped_blocks=member.dropped_blocks)
    network = build_from_spec(smaller, seed=0)
    state = model.state_dict()
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    search.recalibrate(network, smaller, data.train, num_images=options.num_recalibration_images, seed=options.seed)
    return Sized(member=member, model=network.eval(), spec=smaller)


def spread(members: Sequence[ShrunkenNetwork], count: int, chance: float) -> list[ShrunkenNetwork]:
    """Return the whole network and up to `count - 1` members of the front, largest first.

    Chosen are those with which a bound on latency, drawn evenly from 0 to the whole network's, buys the least error
    on average, on a logarithmic scale: to halve the error is worth the same everywhere. A bound that none holds
    counts as guessing. So members lie far apart, and neither two that are alike nor one that knows little more
    than chance takes a place while there are better ones.

    Args:
        members: the whole network before all, each with a latency.
        count: 2 or more.
        chance: the accuracy of guessing, a share.
    """
    assert count > 1, count
    whole = members[0]
    nothing = _worth(chance)
    steps = [one for one in search.front(members) if one != whole][::-1]  # accuracy and latency rise
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(min(count - 1, len(steps))):
        longer = []
        for index, step in enumerate(steps):
            width = _latency(whole) - _latency(step)
            found = [
                (
                    area
                    + width * (_worth(step.accuracy) - (_worth(steps[chosen[-1]].accuracy) if chosen else nothing)),
                    (*chosen, index),
                )
                for area, chosen in best
                if not chosen or chosen[-1] < index
            ]
            longer += [max(found)] if found else []
        best = longer
    return [whole, *(steps[index] for index in max(best)[1][::-1])]


def _worth(accuracy: float) -> float:
    """Return how good an accuracy is: the logarithm of the error, turned round; one in a thousand counts as none."""
    return -math.log(max(1 - accuracy, 1e-3))


def _latency(member: ShrunkenNetwork) -> float:
    assert member.latency_ms is not None
    return member.latency_ms


def _key(run: Path, data: DataSet, options: SearchOptions) -> str:
    digest = hashlib.sha256(f"{data.name}\n{options.model_dump_json()}\n".encode())
    for name in (checkpoint.WEIGHTS, SPEC_FILE, checkpoint.CONFIG):
        try:
            digest.update(sha256_of(run / name).encode())
        except OSError as error:
            raise UsageError(
                f"{run / name}: {error.strerror}; the run is not finished: continue the training"
            ) from error
    return digest.hexdigest()[:12]


def _read(path: Path) -> Sizes | None:
    """Return what an earlier search wrote; None where there is nothing that can be used."""
    try:
        return Sizes.model_validate_json(read_bounded(path, MAX_TEXT_BYTES))
    except (OSError, pydantic.ValidationError):
        return None
