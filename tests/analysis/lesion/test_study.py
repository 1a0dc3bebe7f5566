"""Lesions: what is left of a block, what variants share, and a study that can be interrupted."""

import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from resx.analysis.lesion import study as lesions
from resx.analysis.lesion import variants as plans
from resx.analysis.lesion.evaluation import begun, evaluate
from resx.analysis.network_steps import steps_of
from resx.data.dataset import DataSet
from resx.errors import UsageError
from resx.training.evaluation import accuracy, logits
from tests.support.command import Finished, refused
from tests.support.small_networks import ARCHITECTURES, RESIDUAL_KINDS, fast, few, small_network, taken_apart

Resx = Callable[..., Finished]


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_the_steps_together_compute_what_the_network_computes(kind: str, digits8: DataSet) -> None:
    model, spec, steps = taken_apart(kind, survival=1.0 if ARCHITECTURES[kind].undroppable else 0.6)
    expected = logits(model, spec, digits8.held_out.images[:8])
    x = torch.randn(4, 3, 8, 8)

    with torch.inference_mode():
        for form in (steps, fast(steps)):
            y = x
            for step in form:
                y = step.whole(y)
            torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-4)

    assert expected.shape == (8, 10)


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
def test_a_lesion_leaves_what_the_block_is_without_its_branch(kind: str, digits8: DataSet) -> None:
    model, spec, steps = taken_apart(kind, survival=0.6)
    split = few(digits8, 40)
    singles = [plans.drop_blocks(steps, [step.block]) for step in plans.blocks_of(steps)]

    found = evaluate(fast(steps), singles, split, spec)

    for block, error in zip(model.blocks(), found.errors(), strict=True):  # type: ignore[operator]
        block.joined = block.skipped
        assert error == pytest.approx(1 - accuracy(model, spec, split))
        del block.joined


def test_a_layer_of_a_plain_network_leaves_its_input_or_a_marked_stand_in() -> None:
    _, _, steps = taken_apart("plain")
    layers = plans.blocks_of(steps)
    x = torch.relu(torch.randn(2, 8, 8, 8))

    assert [layer.name for layer in layers][:3] == ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"]
    assert [layer.block for layer in layers if layer.changes_shape] == [5]
    assert isinstance(layers[0].lesioned, nn.Identity)
    stand_in = layers[4].lesioned
    assert stand_in is not None
    assert torch.equal(stand_in(x)[:, :8], x[:, :, ::2, ::2])
    assert not stand_in(x)[:, 8:].any()
    assert plans.deletable(steps) == [1, 2, 3, 4, 6, 7, 8]


def test_a_downsampling_block_keeps_its_shortcut_and_is_marked() -> None:
    model, _, steps = taken_apart("bottleneck")

    assert [step.block for step in plans.blocks_of(steps) if step.changes_shape] == [1, 3]
    assert plans.deletable(steps) == [1, 2, 3, 4]
    x = torch.randn(2, 16, 8, 8)
    block = list(model.blocks())[2]  # type: ignore[operator]
    lesioned = plans.blocks_of(steps)[2].lesioned
    assert lesioned is not None
    assert torch.equal(lesioned(x), torch.relu(block.downsample(x)))


def test_an_evaluation_depends_neither_on_company_nor_on_interruption(digits8: DataSet) -> None:
    _, spec, steps = taken_apart("resnet")
    split, quick = few(digits8, 70), fast(steps)
    variants = [plans.whole(steps), *(plans.drop_blocks(steps, [block]) for block in range(1, 6)), plans.whole(steps)]
    tallies = [begun(len(variants))]

    together = evaluate(quick, variants, split, spec, on_tally=tallies.append)
    resumed = evaluate(quick, variants, split, spec, tally=tallies[2])
    alone = [evaluate(quick, [variant], split, spec).wrong[0] for variant in variants]

    assert [tally.num_images for tally in tallies] == [0, 16, 32, 48, 64, 70]
    assert resumed == together
    assert list(together.wrong) == alone
    assert together.wrong[0] == together.wrong[-1]


def test_errors_and_losses_are_those_of_all_images(digits8: DataSet) -> None:
    model, spec, steps = taken_apart("resnet")
    split = few(digits8, 40)  # three times as many as are computed at once, and some

    tally = evaluate(steps, [plans.whole(steps)], split, spec)

    answers, targets = logits(model, spec, split.images), torch.from_numpy(split.targets)
    assert tally.num_images == 40
    assert tally.errors() == [pytest.approx(float((answers.argmax(1) != targets).float().mean()))]
    assert tally.losses() == [pytest.approx(float(torch.nn.functional.cross_entropy(answers, targets)), rel=1e-4)]


def test_work_is_what_is_really_computed(digits8: DataSet) -> None:
    _, spec, steps = taken_apart("resnet")
    counted = 0

    def count(*_: object) -> None:
        nonlocal counted
        counted += 1

    for step in plans.blocks_of(steps):
        step.whole.register_forward_hook(count)
    variants = [plans.drop_blocks(steps, [block]) for block in range(1, 6)]
    variants += [one for group in plans.random_deletions(steps, draws=3, largest=4, seed=1) for one in group]

    evaluate(steps, variants, few(digits8, 5), spec)

    work = plans.work(steps, variants)
    assert counted == work.shared
    assert work.separate == sum(
        sum(code > 0 and bool(step.block) for code, step in zip(v, steps, strict=True)) for v in variants
    )


def test_single_deletions_cost_half_of_separate_evaluations() -> None:
    import resx

    model = resx.build("resnet110", seed=0).eval()
    steps = steps_of(model, small_network("resnet")[1].model_copy(update={"architecture": _resnet110()}))
    singles = [plans.drop_blocks(steps, [step.block]) for step in plans.blocks_of(steps)]

    work = plans.work(steps, singles)

    assert work.separate == 54 * 53
    # Without block l: the l - 1 before it are shared, the 54 - l behind it are its own.
    assert work.shared == 53 + sum(54 - block for block in range(1, 54))
    assert work.ratio < 0.53


def _resnet110() -> object:
    from resx.zoo.catalog import variant

    return variant("resnet110").spec.architecture


def test_random_deletions_are_nested_uniform_and_of_k_blocks() -> None:
    _, _, steps = taken_apart("resnet")

    groups = plans.random_deletions(steps, draws=400, largest=5, seed=0)
    missing = [[{-code for code in variant if code < 0} for variant in group] for group in groups]

    assert [{len(one) for one in group} for group in missing] == [{1}, {2}, {3}, {4}, {5}]
    for smaller, larger in itertools.pairwise(missing):
        assert all(a < b for a, b in zip(smaller, larger, strict=True))
    times = np.bincount([next(iter(one)) for one in missing[0]])
    times = times[times > 0]
    assert len(times) == 5
    assert times.min() > 400 / 5 - 4 * 8  # standard deviation of a binomial of 400 draws: 8


def test_more_blocks_than_there_are_cannot_be_deleted() -> None:
    _, _, steps = taken_apart("resnet")

    with pytest.raises(UsageError, match="--max-deleted 6: 5 blocks can be removed"):
        plans.random_deletions(steps, draws=1, largest=6, seed=0)


def test_exchanges_stay_among_blocks_of_one_shape() -> None:
    _, _, steps = taken_apart("resnet")
    random = np.random.default_rng(0)
    shapes = [step.shapes for step in steps]

    for swaps in (1, 2, 8):
        variant = plans.reorder(steps, swaps=swaps, random=random)
        assert sorted(variant) == list(plans.whole(steps))
        assert [shapes[code - 1] for code in variant] == shapes


def test_kendalls_tau_is_one_in_order_and_falls_with_each_inversion() -> None:
    _, _, steps = taken_apart("highway")
    whole = plans.whole(steps)
    (first, second), _ = plans.exchangeable(steps)
    swapped = list(whole)
    swapped[first], swapped[second] = swapped[second], swapped[first]

    assert plans.kendall_tau(steps, whole) == 1.0
    assert plans.kendall_tau(steps, tuple(swapped)) == pytest.approx(1 - 2 / 6)


def test_dense_layers_cannot_be_exchanged_and_the_study_says_so_by_leaving_it_out(
    resx: Resx, trained: Callable[[str], Path]
) -> None:
    done = resx("lesion", trained("densenet"), "--draws", "1", "--json")

    assert done.code == 0, done.err
    assert done.json["reorderings"] == []
    assert [one["changes_shape"] for one in done.json["blocks"]] == [False] * 5


def test_a_study_prints_its_saving_and_writes_json_and_figures(
    resx: Resx, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    done = resx("lesion", trained("resnet"), "--draws", "2", "-o", tmp_path / "out")

    assert done.code == 0, done.err
    assert "of the block evaluations" in done.out
    assert "changes shape" in done.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"lesions.json", "lesion-single-light.png", "lesion-deleted-light.pdf", "lesion-reordered-dark.svg"} <= names
    assert lesions.PARTIAL not in names
    found = json.loads((tmp_path / "out" / "lesions.json").read_text())
    increases = [one["error"] - found["error"] for one in found["blocks"]]
    assert found["median_single_increase"] == pytest.approx(statistics.median(increases))
    assert [one["k"] for one in found["deleted"]] == [1, 2, 3, 4, 5]
    again = resx("lesion", trained("resnet"), "--draws", "2", "-o", tmp_path / "out")
    refused(again, 2, "finished study")


def test_an_interrupted_study_goes_on_to_the_same_numbers(digits8: DataSet, tmp_path: Path) -> None:
    _, spec, steps = taken_apart("resnet")
    plan = lesions.LesionPlan(
        model="resnet", weights_sha256="0", data="digits", num_images=355, draws=2, max_deleted=3, seed=0
    )

    class Stop(Exception):  # noqa: N818
        pass

    def interrupt(done: int, _all: int) -> None:
        if done > 100:
            raise Stop

    whole = lesions.study(steps, fast(steps), spec, digits8, plan, None)
    with pytest.raises(Stop):
        lesions.study(steps, fast(steps), spec, digits8, plan, tmp_path, interrupt, save_every_s=0)
    stored = json.loads((tmp_path / lesions.PARTIAL).read_text())
    seen: list[int] = []
    resumed = lesions.study(steps, fast(steps), spec, digits8, plan, tmp_path, lambda done, _all: seen.append(done))

    assert 0 < stored["num_images"] <= 112
    assert seen[0] == stored["num_images"] + 16
    assert resumed.model_copy(update={"cost": whole.cost}) == whole
    assert not (tmp_path / lesions.PARTIAL).exists()


def test_a_part_of_another_study_is_not_continued(digits8: DataSet, tmp_path: Path) -> None:
    _, spec, steps = taken_apart("resnet")
    plan = lesions.LesionPlan(
        model="resnet", weights_sha256="0", data="digits", num_images=355, draws=1, max_deleted=1, seed=0
    )
    partial = {"plan": plan.model_dump() | {"seed": 5}, "num_images": 16, "wrong": [], "loss": []}
    (tmp_path / lesions.PARTIAL).write_text(json.dumps(partial))

    with pytest.raises(UsageError, match="seed was 5, is 0"):
        lesions.study(steps, fast(steps), spec, digits8, plan, tmp_path)


def test_wrong_usage_of_lesion_is_one_line(resx: Resx, trained: Callable[[str], Path], tmp_path: Path) -> None:
    run = trained("resnet")
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "two" / name / f"{index}.png")
    refused(resx("lesion", "resnet20"), 2, "no trained weights", "resx train")
    refused(resx("lesion", tmp_path / "none"), 2, "not a run")
    refused(resx("lesion", run, "--data", f"folder:{tmp_path / 'two'}"), 2, "2 classes", "has 10")
    refused(resx("lesion", run, "--max-deleted", "9"), 2, "--max-deleted 9", "5 blocks")
    refused(resx("lesion", run, "--resume"), 2, "--resume", "-o")
    refused(resx("lesion", run, "--resume", "-o", tmp_path / "o"), 2, "no unfinished study")


def test_a_run_whose_data_are_gone_asks_for_data(resx: Resx, trained: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained("resnet"), tmp_path / "run")
    config = json.loads((tmp_path / "run" / "training.json").read_text())
    (tmp_path / "run" / "training.json").write_text(json.dumps(config | {"data": "folder:/nowhere"}))

    refused(resx("lesion", tmp_path / "run"), 2, "cannot be loaded", "--data")
