"""Freezing, the moving average, early stopping, and going on with all of them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from resx.data.dataset import DataSet
from resx.training.config import TrainingConfig
from resx.training.evaluation import accuracy
from resx.training.loop import TrainingRun, train
from resx.training.optimization.training_state import make_average, new_state
from resx.training.processes import Processes
from resx.training.runs import checkpoint
from resx.training.runs.checkpoint import RunProgress
from resx.training.runs.run_metrics import Metrics, best_of
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec
from tests.support.runs import metrics_of, stop_after

EVERYTHING = {
    "freeze": "stem",
    "layer_decay": 0.5,
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 1.0,
    "augment": "trivialaugment",
    "random_erasing": 0.3,
    "class_weights": "balanced",
    "best_by": "balanced-accuracy",
    "label_smoothing": 0.1,
    "validation": 0.2,
}


@pytest.mark.parametrize("freeze", ["stem", "layer2", "all"])
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, freeze: str
) -> None:
    frozen_config = config.model_copy(update={"freeze": freeze, "epochs": 1, "skipped_blocks": "move"})
    before = build_from_spec(small_spec, seed=config.seed).state_dict()
    model = train(TrainingRun(spec=small_spec, data=small_data, config=frozen_config, folder=tmp_path))

    state = new_state(small_spec, frozen_config, Processes())
    frozen = {id(module) for stage in state.frozen for top in stage.modules for module in top.modules()}
    names = {name for name, module in state.model.named_modules() if id(module) in frozen}
    assert names
    norms = set()
    for name, tensor in model.state_dict().items():
        owner = name.rpartition(".")[0]
        if owner in names:
            assert torch.equal(tensor, before[name]), name
            norms |= {name} if name.endswith("running_mean") else set()
        elif name.endswith(("weight", "running_mean")):
            assert not torch.equal(tensor, before[name]), name
    assert norms
    assert not torch.equal(model.state_dict()["fc.weight"], before["fc.weight"])


def test_frozen_branches_always_run(small_spec: ModelSpec, config: TrainingConfig) -> None:
    state = new_state(small_spec, config.model_copy(update={"freeze": "all"}), Processes())
    state.begin_training()
    image = torch.rand(2, 3, 16, 16)

    assert state.model.training
    with torch.no_grad():
        assert torch.equal(state.model(image), state.model(image))  # no block is dropped


def test_the_average_is_what_it_is_by_hand() -> None:
    model = nn.BatchNorm1d(1)
    average = make_average(model, 0.75)
    expected = {}
    for step, value in enumerate([2.0, 6.0, 1.0]):
        nn.init.constant_(model.weight, value)
        assert model.running_mean is not None
        model.running_mean.fill_(10 * value)
        assert model.num_batches_tracked is not None
        model.num_batches_tracked.fill_(step + 1)
        average.update_parameters(model)
        expected = {
            name: now if not step else 0.75 * expected[name] + 0.25 * now
            for name, now in (("weight", value), ("running_mean", 10 * value))
        }

    found = average.module.state_dict()
    assert float(found["weight"]) == pytest.approx(expected["weight"]) == pytest.approx(2.5)
    assert float(found["running_mean"]) == pytest.approx(expected["running_mean"])
    assert int(found["num_batches_tracked"]) == 3


def test_the_average_is_what_is_evaluated_and_published(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    config = config.model_copy(update={"epochs": 1, "batch_size": 96})  # one step: then the average is the network
    plain = train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "plain"))
    one = config.model_copy(update={"ema": 0.5})
    train(TrainingRun(spec=small_spec, data=small_data, config=one, folder=tmp_path / "one"))
    assert metrics_of(tmp_path / "one") == metrics_of(tmp_path / "plain")

    two = one.model_copy(update={"epochs": 2})
    returned = train(TrainingRun(spec=small_spec, data=small_data, config=two, folder=tmp_path / "two"))
    published = load_file(tmp_path / "two" / checkpoint.WEIGHTS)
    trained = load_file(tmp_path / "two" / checkpoint.RESUME)
    # After the first step it is the network of the other run; the second step moves it halfway.
    for name in ("fc.weight", "bn1.running_var"):
        expected = 0.5 * plain.state_dict()[name] + 0.5 * trained[name]
        assert torch.allclose(published[name], expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(published[name], returned.state_dict()[name])
        assert not torch.allclose(published[name], trained[name], rtol=1e-5, atol=1e-7)
    assert accuracy(returned, small_spec, small_data.held_out) == metrics_of(tmp_path / "two")[-1]["accuracy"]


def test_a_run_with_everything_goes_on_bit_for_bit(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    config = TrainingConfig.model_validate(config.model_dump() | EVERYTHING)
    weights = build_from_spec(small_spec, seed=99).state_dict()
    for name in ("whole", "broken"):
        run = TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / name, weights=weights)
        if name == "whole":
            train(run)
            continue
        with pytest.raises(KeyboardInterrupt):
            train(run, on_epoch=stop_after(1))
        for epoch in (2, None):
            again = TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / name, resume=True)
            if epoch is None:
                train(again)
                continue
            with pytest.raises(KeyboardInterrupt):
                train(again, on_epoch=stop_after(epoch))

    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")
    for file in (checkpoint.WEIGHTS, checkpoint.BEST):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_lamb_run_goes_on_bit_for_bit(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    config = config.model_copy(update={"optimizer": "lamb", "learning_rate": 0.01, "loss": "binary", "cutmix": 1.0})
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "whole"))
    run = TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(run, on_epoch=stop_after(2))
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken", resume=True))

    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")
    assert (tmp_path / "broken" / checkpoint.WEIGHTS).read_bytes() == (
        tmp_path / "whole" / checkpoint.WEIGHTS
    ).read_bytes()


def test_a_run_begins_with_its_weights_and_goes_on_with_them_before_its_first_epoch(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    weights = build_from_spec(small_spec, seed=99).state_dict()
    config = config.model_copy(update={"epochs": 1, "weights": "w.pth"})

    def stop(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    for name in ("whole", "broken"):
        run = TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / name, weights=weights)
        if name == "whole":
            train(run)
            continue
        with pytest.raises(KeyboardInterrupt):
            train(run, on_step=stop)
        train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / name, resume=True))
    drawn = config.model_copy(update={"weights": "none"})
    train(TrainingRun(spec=small_spec, data=small_data, config=drawn, folder=tmp_path / "drawn"))

    found = {name: metrics_of(tmp_path / name) for name in ("whole", "broken", "drawn")}
    assert found["broken"] == found["whole"] != found["drawn"]


def entries(values: list[float], key: str) -> tuple[Metrics, ...]:
    return tuple({"accuracy": 0.5, "held_out_loss": 1.0, "balanced_accuracy": 0.5} | {key: value} for value in values)


def test_the_best_epoch_is_chosen_by_what_is_asked_for() -> None:
    assert best_of(entries([0.3, 0.6, 0.6, 0.4], "accuracy")) == 1
    assert best_of(entries([0.9, 0.2, 0.2, 0.4], "held_out_loss"), "loss") == 1
    assert best_of(entries([0.1, 0.2, 0.7], "balanced_accuracy"), "balanced-accuracy") == 2
    both = entries([0.9, 0.2], "held_out_loss")
    with_validation = [entry | {"validation_loss": loss} for entry, loss in zip(both, (0.1, 0.5), strict=True)]
    assert best_of(with_validation, "loss") == 0


@pytest.mark.parametrize(
    ("accuracies", "patience", "is_over"),
    [([0.5, 0.4], 2, False), ([0.5, 0.4, 0.5], 2, True), ([0.5, 0.4, 0.6], 2, False), ([0.5, 0.4, 0.3], 0, False)],
)
def test_training_is_over_when_nothing_got_better_for_as_long_as_patience_lasts(
    config: TrainingConfig, accuracies: list[float], patience: int, is_over: bool
) -> None:
    progress = RunProgress(epochs_done=len(accuracies), metrics=entries(accuracies, "accuracy"))

    assert progress.is_over(config.model_copy(update={"epochs": 9, "patience": patience})) == is_over


def test_a_run_stops_early_and_stays_stopped(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    still = {"epochs": 9, "patience": 2, "freeze": "all", "learning_rate": 1e-12, "weight_decay": 0.0}
    config = config.model_copy(update=still)  # no epoch is better than the first
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    assert len(metrics_of(tmp_path)) == 3

    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path, resume=True))
    assert len(metrics_of(tmp_path)) == 3
