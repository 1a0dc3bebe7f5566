import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file

from resx.data.dataset import DataSet, Split
from resx.errors import ResxError, UsageError
from resx.training.config import TrainingConfig
from resx.training.evaluation import accuracy, logits
from resx.training.loop import TrainingRun, train
from resx.training.processes import Processes
from resx.training.runs import checkpoint
from resx.training.runs.checkpoint import Metrics
from resx.zoo.spec import ModelSpec, read_spec
from tests.support.runs import metrics_of, stop_after


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def forget_origin(weights: Path) -> None:
    """Make a file of weights one of an older version, which does not say which run it belongs to."""
    with safe_open(weights, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "run"}
    save_file(load_file(weights), weights, metadata)


def test_a_run_leaves_exactly_the_documented_files(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))

    documented = {line.split()[0] for line in (checkpoint.__doc__ or "").splitlines() if line.startswith("        ")}
    assert {path.name for path in tmp_path.iterdir()} == documented
    assert read_spec(tmp_path / "spec.json") == small_spec
    assert TrainingConfig.model_validate_json((tmp_path / checkpoint.CONFIG).read_bytes()) == config
    assert [line["epoch"] for line in metrics_of(tmp_path)] == [1, 2, 3]
    assert [line["step"] for line in metrics_of(tmp_path)] == [6, 12, 18]


def test_the_loaded_run_computes_what_the_trained_network_computes(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    trained = train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    loaded, spec = checkpoint.load_run(tmp_path)

    assert spec == small_spec
    images = small_data.held_out.images[:]
    assert torch.equal(logits(loaded, spec, images), logits(trained, spec, images))
    assert accuracy(loaded, spec, small_data.held_out) == metrics_of(tmp_path)[-1]["accuracy"]


def test_training_learns(small_spec: ModelSpec, small_data: DataSet, tmp_path: Path) -> None:
    config = TrainingConfig(data="digits", epochs=10, batch_size=8, learning_rate=0.1)
    train(TrainingRun(spec=small_spec.with_changes(survival=1.0), data=small_data, config=config, folder=tmp_path))

    losses = [line["loss"] for line in metrics_of(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(
            TrainingRun(
                spec=small_spec,
                data=small_data,
                config=config.model_copy(update={"seed": seed}),
                folder=tmp_path / name,
            )
        )

    weights = [(tmp_path / name / checkpoint.WEIGHTS).read_bytes() for name in "abc"]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, epoch: int
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(
            TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken"),
            on_epoch=stop_after(epoch),
        )
    assert len(metrics_of(tmp_path / "broken")) == epoch

    torch.manual_seed(12345)  # whatever another process has drawn before
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken", resume=True))

    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")
    for name in (checkpoint.WEIGHTS, checkpoint.BEST):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_interruption_in_the_middle_of_an_epoch_leaves_the_last_finished_one(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    after_one = {}

    def remember(entry: Metrics) -> None:
        after_one.update(files_of(tmp_path / "broken"))

    def interrupt(done: int, _all: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken"),
            on_step=interrupt,
            on_epoch=remember,
        )
    assert files_of(tmp_path / "broken") == after_one

    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken", resume=True))
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "whole"))
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")


def test_a_run_interrupted_before_its_first_epoch_begins_again(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    def interrupt(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path), on_step=interrupt)
    with pytest.raises(UsageError, match="not finished its first epoch"):
        checkpoint.load_run(tmp_path)

    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path, resume=True))
    assert len(metrics_of(tmp_path)) == 3


def test_resuming_a_finished_run_changes_nothing(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    before = files_of(tmp_path)

    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path, resume=True))

    assert files_of(tmp_path) == before


def test_resuming_with_other_settings_is_refused_with_the_difference(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    before = files_of(tmp_path)

    with pytest.raises(UsageError, match=r"batch_size was 16, is 8; seed was 7, is 9"):
        train(
            TrainingRun(
                spec=small_spec,
                data=small_data,
                config=config.model_copy(update={"batch_size": 8, "seed": 9}),
                folder=tmp_path,
                resume=True,
            )
        )
    assert files_of(tmp_path) == before


def test_resuming_with_another_network_is_refused_with_the_difference(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))

    with pytest.raises(UsageError, match=r"another network.*survival was 0\.5, is 0\.8"):
        train(
            TrainingRun(
                spec=small_spec.with_changes(survival=0.8), data=small_data, config=config, folder=tmp_path, resume=True
            )
        )


# Weight decay multiplies the weights by a large number every step, so they overflow within two epochs; with
# the larger rates it is the last update of an epoch that ruins them, after a loss that was still finite.
@pytest.mark.parametrize("learning_rate", [1e4, 3e4, 1e5])
def test_divergence_stops_the_run_and_keeps_the_last_good_epoch(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, learning_rate: float
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    good = files_of(tmp_path)
    exploding = config.model_copy(update={"learning_rate": learning_rate, "epochs": 50})
    (tmp_path / checkpoint.CONFIG).write_text(exploding.model_dump_json())
    forget_origin(tmp_path / checkpoint.RESUME)

    with pytest.raises(ResxError, match=r"(loss is (nan|inf) in|not finite after) step \d+: .*lower --learning-rate"):
        train(TrainingRun(spec=small_spec, data=small_data, config=exploding, folder=tmp_path, resume=True))

    kept = metrics_of(tmp_path)
    assert kept[-1]["epoch"] in (3, 4)
    model, _ = checkpoint.load_run(tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    if len(kept) == 3:
        assert load(files_of(tmp_path)[checkpoint.WEIGHTS])["fc.bias"].equal(load(good[checkpoint.WEIGHTS])["fc.bias"])


def test_a_loss_that_is_not_finite_ends_the_epoch_at_its_step(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    exploding = config.model_copy(update={"epochs": 1, "learning_rate": 1e38, "weight_decay": 100.0})
    steps: list[int] = []

    with pytest.raises(ResxError, match="loss is nan in step 2: .*lower --learning-rate"):
        train(
            TrainingRun(spec=small_spec, data=small_data, config=exploding, folder=tmp_path),
            on_step=lambda done, _all: steps.append(done),
        )

    assert steps == [1]


def test_weights_that_the_last_update_ruined_are_not_kept(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    """The only loss of the epoch is finite; the update behind it is not, and no other loss would show it."""
    one_step = config.model_copy(update={"epochs": 1, "batch_size": 96, "learning_rate": 1e38, "weight_decay": 100.0})

    with pytest.raises(ResxError, match="weights are not finite after step 1: "):
        train(TrainingRun(spec=small_spec, data=small_data, config=one_step, folder=tmp_path))

    assert checkpoint.WEIGHTS not in files_of(tmp_path)


def test_evaluation_in_small_batches_equals_evaluation_at_once(small_spec: ModelSpec, small_data: DataSet) -> None:
    from resx.zoo.building import build_from_spec

    model = build_from_spec(small_spec, seed=0)
    images = small_data.held_out.images[:]

    at_once = logits(model, small_spec, images, batch_size=64)
    in_batches = logits(model, small_spec, images, batch_size=7)
    np.testing.assert_allclose(in_batches, at_once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num_images", "batch_size"), [(2, 2), (3, 2), (5, 4), (3, 16)])
def test_no_batch_has_one_image_however_many_there_are(
    small_spec: ModelSpec, small_data: DataSet, tmp_path: Path, num_images: int, batch_size: int
) -> None:
    spec = at_one_pixel(small_spec)

    train(
        TrainingRun(
            spec=spec,
            data=first(small_data, num_images),
            config=TrainingConfig(data="digits", epochs=1, batch_size=batch_size),
            folder=tmp_path,
        )
    )

    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(("num_images", "count", "words"), [(1, 1, "only one training image"), (3, 2, "2 processes")])
def test_too_few_images_are_refused_before_the_folder_is_made(
    small_spec: ModelSpec, small_data: DataSet, tmp_path: Path, num_images: int, count: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        train(
            TrainingRun(
                spec=at_one_pixel(small_spec),
                data=first(small_data, num_images),
                config=TrainingConfig(data="digits", epochs=1),
                folder=tmp_path / "run",
            ),
            processes=Processes(count=count),
        )
    assert not (tmp_path / "run").exists()


def at_one_pixel(spec: ModelSpec) -> ModelSpec:
    """Return a network whose last stage has one value per channel and image, where batch norm needs two images."""
    architecture = spec.architecture.model_copy(update={"stem": "imagenet"})
    return spec.model_copy(update={"architecture": architecture, "survival": 1.0})


def first(data: DataSet, num_images: int) -> DataSet:
    images, targets = data.train.images[:num_images], data.train.targets[:num_images]
    return dataclasses.replace(data, train=Split(images=images, targets=targets))
