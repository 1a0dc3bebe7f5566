"""Fewer blocks: searched by measurement, written as a run like any other."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from resx.analysis.shrink import choice
from resx.analysis.shrink import search as search
from resx.analysis.shrink.search import BlockLatency, SearchOptions, ShrunkenNetwork, Sized
from resx.data.dataset import DataSet, Split
from resx.errors import ObjectiveMissed, UsageError
from resx.export.block_latency import measure_blocks
from resx.export.graph.batchnorm_fusion import fuse
from resx.export.graph.onnx_writer import write_onnx
from resx.export.graph.survival_folding import fold_survival
from resx.runtimes.profiling.measuring import ProfileOptions
from resx.runtimes.profiling.onnx_source import onnx_subject
from resx.training.evaluation import accuracy, logits, normalize
from resx.training.runs.checkpoint import load_run, load_run_data
from resx.zoo.spec import survival_probabilities
from tests.support.command import Finished, refused
from tests.support.small_networks import REMOVABLE_KINDS, small_network

Resx = Callable[..., Finished]


def prepare(part: nn.Module) -> nn.Module:
    return fuse(part, target="gpu")


def sized(num_blocks: int, share: float, dropped: tuple[int, ...] = ()) -> Sized:
    model, spec = small_network("resnet")
    return Sized(
        member=ShrunkenNetwork(dropped_blocks=dropped, num_blocks=num_blocks, accuracy=share), model=model, spec=spec
    )


def test_the_search_takes_the_cheapest_block_first_and_nests_its_choices(
    trained: Callable[[str], Path], digits8: DataSet
) -> None:
    model, spec = load_run(trained("resnet"))
    options = SearchOptions(num_images=100, num_recalibration_images=0)

    found = list(search.sizes(model, spec, digits8, options, prepare))

    chosen = np.sort(np.random.default_rng(0).permutation(len(digits8.train))[:100])
    x = normalize(digits8.train.images[chosen], spec, torch.device("cpu"))
    targets = torch.from_numpy(digits8.train.targets[chosen])
    losses = {}
    for block in (1, 2, 4, 5):
        smaller, _ = search.drop_block(model, spec, block)
        with torch.inference_mode():
            losses[block] = float(nn.functional.cross_entropy(smaller(x), targets))
    assert found[0].spec.dropped_blocks == (min(losses, key=losses.__getitem__),)
    dropped = [set(one.spec.dropped_blocks) for one in found]
    assert [len(one) for one in dropped] == [1, 2, 3, 4]
    assert all(a < b for a, b in itertools.pairwise(dropped))
    assert dropped[-1] == {1, 2, 4, 5}
    assert found[1].member.accuracy == pytest.approx(accuracy(found[1].model, spec, digits8.held_out))


def test_of_the_shortlist_the_block_goes_whose_loss_is_least_with_fitted_batch_norms(
    trained: Callable[[str], Path], digits8: DataSet
) -> None:
    model, spec = load_run(trained("resnet"))
    options = SearchOptions(num_images=100, shortlist=4, num_recalibration_images=200)

    first = next(search.sizes(model, spec, digits8, options, prepare))

    chosen = np.sort(np.random.default_rng(0).permutation(len(digits8.train))[:100])
    images = Split(images=digits8.train.images[chosen], targets=digits8.train.targets[chosen])
    losses = {}
    for block in (1, 2, 4, 5):
        smaller, _ = search.drop_block(model, spec, block)
        search.recalibrate(smaller, spec, images, num_images=100, seed=0)
        answers = logits(smaller, spec, images.images)
        losses[block] = float(nn.functional.cross_entropy(answers, torch.from_numpy(images.targets)))
    assert first.spec.dropped_blocks == (min(losses, key=losses.__getitem__),)


def test_random_choices_are_another_search(trained: Callable[[str], Path], digits8: DataSet) -> None:
    model, spec = load_run(trained("resnet"))
    orders = {
        tuple(one.spec.dropped_blocks for one in search.sizes(model, spec, digits8, options, prepare))
        for options in (SearchOptions(at_random=True, seed=seed, num_recalibration_images=0) for seed in range(4))
    }

    assert len(orders) > 1


def test_recalibration_gives_batch_norms_the_statistics_of_the_network_in_use(digits8: DataSet) -> None:
    model, spec = small_network("resnet", survival=0.5)
    search.recalibrate(model, spec, digits8.train, num_images=100, seed=3)

    # One batch: the mean over batches is that of the batch. The second block's input is scaled by survival.
    chosen = np.random.default_rng([3, 2]).permutation(len(digits8.train))[:100]
    x = normalize(digits8.train.images[chosen], spec, torch.device("cpu"))
    seen: list[torch.Tensor] = []
    block = list(model.blocks())[1]  # type: ignore[operator]
    block.conv1.register_forward_hook(lambda _module, _input, output: seen.append(output))
    with torch.inference_mode():
        model(x)
    # The blocks before it used their batch's statistics, which are now their running ones, but for n / (n - 1).
    torch.testing.assert_close(block.bn1.running_mean, seen[0].mean((0, 2, 3)), rtol=2e-2, atol=2e-2)
    assert not model.training
    assert all(not module.training for module in model.modules())
    assert block.bn1.momentum == 0.1


def test_recalibration_takes_the_mean_over_all_batches(digits8: DataSet) -> None:
    model, spec = small_network("resnet")
    search.recalibrate(model, spec, digits8.train, num_images=300, seed=3)  # three batches of 100

    chosen = np.random.default_rng([3, 2]).permutation(len(digits8.train))[:300]
    with torch.inference_mode():
        first = model.conv1(normalize(digits8.train.images[chosen], spec, torch.device("cpu")))  # type: ignore[operator]
    torch.testing.assert_close(model.bn1.running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_without_images_recalibration_changes_nothing(digits8: DataSet) -> None:
    model, spec = small_network("resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    search.recalibrate(model, spec, digits8.train, num_images=0, seed=0)

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_smallest_network_within_the_bar_is_taken_even_behind_one_that_misses_it() -> None:
    found = [sized(4, 0.95), sized(3, 0.90), sized(2, 0.94)]

    assert choice.within_accuracy(found, 0.96, 0.02).member.num_blocks == 2


def test_an_accuracy_that_cannot_be_met_names_the_best_found() -> None:
    with pytest.raises(ObjectiveMissed, match=r"best has 95.00% with 4 blocks.*96.00%.*1.00 or more"):
        choice.within_accuracy([sized(4, 0.95), sized(3, 0.90)], 0.96, 0.001)


def test_the_search_for_an_accuracy_ends_after_five_misses() -> None:
    seen = []

    def sizes() -> object:
        for share in (0.95, *[0.5] * 20):
            seen.append(share)
            yield sized(3, share)

    choice.within_accuracy(sizes(), 0.96, 0.02)  # type: ignore[arg-type]

    assert len(seen) == 6


def test_a_latency_is_met_by_a_measured_graph_not_by_a_prediction() -> None:
    whole = BlockLatency(total_ms=10, blocks_ms={1: 2, 2: 2, 4: 2})
    found = [sized(4, 0.9, (1,)), sized(3, 0.9, (1, 2)), sized(2, 0.9, (1, 2, 4))]
    measured = []

    def measure(_model: nn.Module, _spec: object) -> BlockLatency:
        measured.append(1)
        return BlockLatency(total_ms=7.5 - len(measured), blocks_ms={})

    chosen = choice.within_latency(found, whole, 6.0, measure)

    # Predicted 8, 6, 4; measured are the last two: 6.5 and 5.5.
    assert chosen.member.num_blocks == 2
    assert chosen.member.latency_ms == 5.5
    with pytest.raises(UsageError, match="takes 10 ms already"):
        choice.require_reachable(whole, (1, 2, 4), 11)
    with pytest.raises(ObjectiveMissed, match="still take 4 ms"):
        choice.require_reachable(whole, (1, 2, 4), 3.9)


def test_on_the_front_nothing_is_both_larger_and_no_better() -> None:
    members = [
        ShrunkenNetwork(dropped_blocks=(), num_blocks=number, accuracy=share)
        for number, share in [(5, 0.9), (4, 0.95), (3, 0.8), (2, 0.8), (1, 0.3)]
    ]

    assert [(one.num_blocks, one.accuracy) for one in search.front(members)] == [(4, 0.95), (2, 0.8), (1, 0.3)]


@pytest.mark.parametrize("kind", REMOVABLE_KINDS)
def test_every_block_of_an_exported_graph_is_found_and_timed(kind: str, tmp_path: Path) -> None:
    model, spec = small_network(kind, survival=0.6)

    latency = measure_blocks(model, spec, runs=5, threads=1)

    assert set(latency.blocks_ms) == set(spec.kept_blocks)
    assert all(spent > 0 for spent in latency.blocks_ms.values())
    assert 0 < latency.without(latency.blocks_ms) < latency.total_ms
    proto = write_onnx(
        fold_survival(model), spec, tmp_path / "m.onnx", precision="fp32", input_type="uint8", target="cpu"
    )
    names = ["stages.0.layers.0"] if kind.startswith("highway") else ["layer1.0", "layer2.0"]
    source = onnx_subject(proto, ProfileOptions(), "m", blocks=names).source
    blocks = dict(zip((node.name for node in source.nodes), source.blocks, strict=True))
    weighted = [node for node in proto.graph.node if node.op_type == "Conv"]
    for prefix in names:
        assert [blocks[node.name] for node in weighted if node.name.startswith(f"{prefix}.")].count(prefix) >= 2
    shapes = [blocks[node.name] for node in proto.graph.node if node.op_type == "Pad"]
    assert shapes == (["layer2.0"] if "resnet" in kind and kind != "preresnet" else [])


def test_a_shrunken_run_is_a_run_like_any_other(resx: Resx, trained: Callable[[str], Path], tmp_path: Path) -> None:
    done = resx("shrink", trained("resnet"), "--drop", "2", "-o", tmp_path / "small", "--json")

    assert done.code == 0, done.err
    (made,) = done.json["runs"]
    model, spec = load_run(tmp_path / "small")
    dropped = tuple(made["member"]["dropped_blocks"])
    assert spec.dropped_blocks == dropped
    assert len(dropped) == 2
    p = survival_probabilities(5, 0.7)
    assert [block.survival for block in model.blocks()] == [p[i - 1] for i in spec.kept_blocks]  # type: ignore[operator]
    assert accuracy(model, spec, load_run_data(tmp_path / "small").held_out) == pytest.approx(made["accuracy"])

    exported = resx("export", tmp_path / "small", "--name", "small", "--json")
    assert exported.code == 0, exported.err
    proto = onnx.load(tmp_path / "model_repository" / "small" / "1" / "model.onnx")
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 1 + 2 * 3  # the stem and two in each block that is left
    whole_names = [name for name, _ in load_run(trained("resnet"))[0].named_modules()]
    blocks = [name for name in whole_names if name.count(".") == 1 and name.startswith("layer")]
    for number in dropped:
        assert not [name for name in convolutions if name.startswith(f"{blocks[number - 1]}.")]
    assert resx("verify", "small").code == 0
    assert resx("lesion", tmp_path / "small", "--draws", "1", "-q").code == 0


def test_fine_tuning_trains_the_smaller_network_on(resx: Resx, trained: Callable[[str], Path], tmp_path: Path) -> None:
    left = tmp_path / ".staging-999999-0a1b2c3d" / "model.safetensors"  # of a shrink that was killed
    left.parent.mkdir()
    left.write_bytes(b"half")

    done = resx("shrink", trained("resnet"), "--drop", "3", "--finetune", "1", "-o", tmp_path / "small", "--json")

    assert done.code == 0, done.err
    assert not left.parent.exists()
    lines = (tmp_path / "small" / "metrics.jsonl").read_text().splitlines()
    config = json.loads((tmp_path / "small" / "training.json").read_text())
    assert len(lines) == 1
    assert json.loads(lines[0])["accuracy"] == done.json["runs"][0]["accuracy"]
    assert config["learning_rate"] == pytest.approx(0.005)
    _, spec = load_run(tmp_path / "small")
    assert len(spec.dropped_blocks) == 3


def test_pareto_writes_a_run_for_each_size_that_no_other_beats(
    resx: Resx, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    done = resx(
        "shrink", trained("resnet"), "--pareto", "-o", tmp_path / "family", "--json", "--plot", tmp_path / "front.pdf"
    )

    assert done.code == 0, done.err
    assert [one["num_blocks"] for one in done.json["sizes"]] == [5, 4, 3, 2, 1]
    assert all(one["latency_ms"] > 0 for one in done.json["sizes"])
    written = sorted(path.name for path in (tmp_path / "family").iterdir())
    assert written == sorted(Path(one["folder"]).name for one in done.json["runs"])
    assert all(not one["member"]["predicted"] for one in done.json["runs"])


def test_wrong_usage_of_shrink_is_one_line_and_leaves_nothing(
    resx: Resx, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    run, new = trained("resnet"), tmp_path / "new"
    refused(resx("shrink", run, "-o", new), 2, "choose one target: --drop")
    refused(resx("shrink", run, "--drop", "1", "--pareto", "-o", new), 2, "choose one target")
    refused(resx("shrink", run, "--drop", "5", "-o", new), 2, "--drop 5: 4 of 5 blocks can be removed")
    refused(resx("shrink", trained("plain"), "--drop", "1", "-o", new), 2, "no block can be removed", "no shortcut")
    refused(resx("shrink", trained("densenet"), "--drop", "1", "-o", new), 2, "no block can be removed", "channels")
    refused(resx("shrink", "resnet20", "--drop", "1", "-o", new), 2, "no trained weights")
    refused(resx("shrink", run, "--drop", "1", "-o", run), 2, "exists")
    refused(resx("shrink", run, "--latency", "0.0001", "-o", new), 3, "with every removable block removed")
    assert list(tmp_path.iterdir()) == []
