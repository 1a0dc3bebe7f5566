"""A run's sizes: searched once, kept, made into runs, and spread."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from resx.analysis.shrink import search
from resx.analysis.shrink.depth_family import DepthFamily, family_of, rebuild, run_of, spread
from resx.analysis.shrink.search import BlockLatency, SearchOptions, ShrunkenNetwork
from resx.data.dataset import DataSet
from resx.errors import UsageError
from resx.export.graph.batchnorm_fusion import fuse
from resx.training.runs.checkpoint import load_run
from resx.zoo.spec import ModelSpec

OPTIONS = SearchOptions(num_images=50, shortlist=1, num_recalibration_images=100)


def prepare(part: nn.Module) -> nn.Module:
    return fuse(part, target="gpu")


def found_in(run: Path, data: DataSet, asked: list[str]) -> DepthFamily:
    def measure(_model: nn.Module, spec: ModelSpec) -> BlockLatency:
        asked.append(spec.name)
        return BlockLatency(total_ms=10.0, blocks_ms=dict.fromkeys(spec.kept_blocks, 1.5))

    return family_of(run, data, OPTIONS, prepare=prepare, measure=measure)


def members(*figures: tuple[int, float, float]) -> list[ShrunkenNetwork]:
    return [
        ShrunkenNetwork(dropped_blocks=(), num_blocks=blocks, accuracy=share, latency_ms=ms)
        for blocks, share, ms in figures
    ]


def blocks(chosen: Sequence[ShrunkenNetwork]) -> list[int]:
    return [one.num_blocks for one in chosen]


def test_a_runs_sizes_are_searched_once_and_again_when_it_was_trained_on(
    trained: Callable[[str], Path], digits8: DataSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model.safetensors", "spec.json", "training.json"):
        (run / name).write_bytes((trained("resnet") / name).read_bytes())
    asked: list[str] = []

    found = found_in(run, digits8, asked)

    assert blocks(found.sizes.members) == [5, 4, 3, 2, 1]
    assert [one.latency_ms for one in found.sizes.members] == [10.0, 8.5, 7.0, 5.5, 4.0]
    assert [one.predicted for one in found.sizes.members] == [False, True, True, True, True]
    assert found_in(run, digits8, asked) == found
    assert len(asked) == 1
    assert run_of(found, found.whole, digits8) == run
    smaller = run_of(found, found.sizes.members[2], digits8)
    assert load_run(smaller)[1].dropped_blocks == found.sizes.members[2].dropped_blocks
    assert run_of(found, found.sizes.members[2], digits8) == smaller
    (run / "training.json").write_text((run / "training.json").read_text() + "\n")
    assert found_in(run, digits8, asked).folder != found.folder
    assert len(asked) == 2
    assert smaller.is_dir()
    (run / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="not finished"):
        found_in(run, digits8, asked)


def test_a_member_is_rebuilt_as_the_search_had_it(trained: Callable[[str], Path], digits8: DataSet) -> None:
    model, spec = load_run(trained("resnet"))
    third = list(itertools.islice(search.sizes(model, spec, digits8, OPTIONS, prepare), 3))[-1]

    again = rebuild(trained("resnet"), third.member, digits8, OPTIONS)

    assert again.spec == third.spec
    expected, actual = third.model.state_dict(), again.model.state_dict()
    assert list(expected) == list(actual)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_chosen_members_leave_the_least_logarithmic_error_over_all_bounds(count: int) -> None:
    whole, *others = members(
        (9, 0.95, 9.0),
        (8, 0.96, 8.0),
        (7, 0.90, 7.0),
        (6, 0.94, 6.0),
        (5, 0.93, 5.5),
        (4, 0.8, 4.0),
        (3, 0.4, 3.0),
        (2, 0.1, 1.0),
    )

    def mean_worth(chosen: Sequence[ShrunkenNetwork]) -> float:
        bounds = [9.0 * (step + 0.5) / 1800 for step in range(1800)]
        bought = (max((one.accuracy for one in chosen if one.latency_ms <= bound), default=0.1) for bound in bounds)  # type: ignore[operator]
        return sum(-math.log(1 - max(share, 0.1)) for share in bought)

    chosen = spread([whole, *others], count, 0.1)

    assert (len(chosen), chosen[0]) == (count, whole)
    best = max(itertools.combinations(others, count - 1), key=mean_worth)
    assert mean_worth(chosen[1:]) == pytest.approx(mean_worth(best))
    assert 7 not in blocks(chosen)
    assert blocks(chosen) == sorted(blocks(chosen), reverse=True)


def test_a_front_that_is_shorter_than_wanted_is_taken_whole_and_the_whole_network_stays_though_beaten() -> None:
    found = members((4, 0.90, 4.0), (3, 0.95, 3.0), (2, 0.95, 2.0), (1, 0.99, 1.0))

    assert blocks(spread(found, 7, 0.1)) == [4, 1]
    assert blocks(spread(members((2, 1.0, 2.0), (1, 1.0, 2.0)), 2, 0.1)) == [2, 1]
