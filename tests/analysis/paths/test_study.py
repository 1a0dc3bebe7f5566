"""Paths: counted exactly, and a gradient that is the sum of all of them."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from resx.analysis.paths.study import PathTape, carrying_span, path_gradients, path_lengths, topology
from resx.data.dataset import DataSet
from resx.training.evaluation import normalize
from resx.zoo.catalog import VARIANTS, variant
from tests.support.command import Finished, refused
from tests.support.small_networks import RESIDUAL_KINDS, taken_apart

Resx = Callable[..., Finished]
RESIDUAL = [name for name, entry in VARIANTS.items() if not entry.spec.architecture.undroppable]


def test_the_articles_figures_for_110_layers_come_out_of_the_commands_json(resx: Resx) -> None:
    done = resx("paths", "resnet110", "--between", "19", "35", "--json")

    lengths = done.json["lengths"]
    assert lengths["counts"] == [math.comb(54, k) for k in range(55)]
    assert lengths["mean"] == 27
    assert lengths["std"] == pytest.approx(math.sqrt(54) / 2)
    assert done.json["between"]["share"] == sum(math.comb(54, k) for k in range(19, 36)) / 2**54
    assert done.json["between"]["share"] > 0.95
    assert done.json["gradients"] is None


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_networks_paths_are_choices_at_its_blocks(name: str) -> None:
    architecture = variant(name).spec.architecture
    num_blocks = architecture.num_blocks

    lengths = path_lengths(topology(architecture, range(1, num_blocks + 1)))

    assert lengths.counts == tuple(math.comb(num_blocks, k) for k in range(num_blocks + 1))


def test_a_dense_blocks_graph_is_that_of_the_paper() -> None:
    # A layer reads the block's input and all layers before it, the output all of them: L (L + 1) / 2 and L + 1 edges.
    nodes = topology(variant("densenet121").spec.architecture.model_copy(update={"block_depths": (3,)}), ())

    assert [node.inputs for node in nodes] == [(), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]
    assert path_lengths(nodes).counts == (1, 3, 3, 1)


def test_dropped_blocks_are_on_no_path() -> None:
    spec = variant("resnet20").spec.with_changes(dropped_blocks=(2, 3))

    assert path_lengths(topology(spec.architecture, spec.kept_blocks)).num_blocks == 7


def test_a_span_is_the_shortest_that_carries_enough() -> None:
    assert carrying_span([0.1, 0.2, 0.4, 0.25, 0.05], 0.8).model_dump() == pytest.approx(
        {"low": 1, "high": 3, "share": 0.85}
    )
    assert carrying_span([1.0, 0.0]).high == 0


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
def test_the_sum_over_all_paths_is_the_full_gradient(kind: str, digits8: DataSet) -> None:
    model, spec, _ = taken_apart(kind, survival=0.6)
    from resx.analysis.network_steps import steps_of

    model = model.double()
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    targets = torch.from_numpy(digits8.train.targets[:5])
    x = normalize(digits8.train.images[:5], spec, torch.device("cpu")).double()
    steps = steps_of(model.float(), spec)
    model.double()
    tape = PathTape(steps, x, targets)

    number = tape.num_blocks
    paths = [chosen for k in range(number + 1) for chosen in itertools.combinations(range(number), k)]
    total = torch.stack([tape.through(chosen) for chosen in paths]).sum(0)

    first = next(index for index, step in enumerate(steps) if step.block)
    for step in steps[:first]:
        x = step.whole(x)
    leaf = x.clone().requires_grad_()
    y = leaf
    for step in steps[first:]:
        y = step.whole(y)
    (expected,) = torch.autograd.grad(F.cross_entropy(y, targets, reduction="sum"), leaf)
    assert len(paths) == 2**number
    assert expected.abs().max() > 0
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(tape.whole(), expected, rtol=1e-9, atol=1e-12)
    # No single length is all of it, so the sum above could have failed.
    assert not torch.allclose(tape.through(range(number)), expected, rtol=1e-2)


@pytest.mark.parametrize("kind", ["resnet", "bottleneck"])
def test_a_path_goes_through_the_branches_that_it_names(kind: str, digits8: DataSet) -> None:
    """All branches but one give nothing, so that no gradient comes through them: only paths past them have any."""
    _, spec, steps = taken_apart(kind)
    blocks = [step.residual for step in steps if step.residual is not None]
    live = len(blocks) - 2
    for number, block in enumerate(blocks):
        if number != live:
            torch.nn.init.zeros_(block.branch_end().weight)
            torch.nn.init.zeros_(block.branch_end().bias)
    x = normalize(digits8.train.images[:3], spec, torch.device("cpu"))
    tape = PathTape(steps, x, torch.from_numpy(digits8.train.targets[:3]))

    carrying = [
        chosen
        for k in range(len(blocks) + 1)
        for chosen in itertools.combinations(range(len(blocks)), k)
        if tape.through(chosen).any()
    ]

    assert carrying == [(), (live,)]


def test_lengths_with_few_paths_are_sampled_no_more_often_than_there_are_paths(digits8: DataSet) -> None:
    _, spec, steps = taken_apart("resnet")
    x = normalize(digits8.train.images[:3], spec, torch.device("cpu"))
    tape = PathTape(steps, x, torch.from_numpy(digits8.train.targets[:3]))

    found = path_gradients(tape, path_lengths(topology(spec.architecture, spec.kept_blocks)), draws=6, seed=0)

    assert [one.num_paths for one in found.lengths] == [1, 5, 6, 6, 5, 1]
    assert sum(found.shares) == pytest.approx(1)
    assert found.span.share >= 0.95


def test_a_runs_gradients_are_printed_and_drawn_light_and_dark(
    resx: Resx, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    done = resx(
        "paths",
        trained("resnet"),
        "--draws",
        "2",
        "--images",
        "4",
        "-o",
        tmp_path / "out",
        "--plot",
        tmp_path / "all.svg",
    )

    assert done.code == 0, done.err
    assert "carry" in done.out
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [
        f"paths-{figure}-{look}.{suffix}"
        for figure in ("a-lengths", "b-gradients", "c-product")
        for look in ("dark", "light")
        for suffix in ("pdf", "png", "svg")
    ] + ["paths.json"]
    assert (tmp_path / "all.svg").read_text().count('id="axes_') == 3
    found = json.loads((tmp_path / "out" / "paths.json").read_text())
    assert found["gradients"]["num_images"] == 4
    assert len(found["gradients"]["shares"]) == 6


def test_wrong_usage_of_paths_is_one_line(resx: Resx, trained: Callable[[str], Path]) -> None:
    refused(resx("paths", "vgg16"), 2, "vgg16", "needs residual blocks")
    refused(resx("paths", trained("plain")), 2, "needs residual blocks")
    refused(resx("paths", "resnt110"), 2, "resnet110")
    refused(resx("paths", "resnet110", "--data", "digits"), 2, "--data digits", "no trained weights")
    refused(resx("paths", "torchvision:resnet18"), 2, "block structure")
    refused(resx("paths", "resnet110", "--plot", "paths.jpg"), 2, "--plot paths.jpg", ".png, .svg, .pdf")
