"""Precision, smoothing, clipping, device, the best checkpoint, TensorBoard."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from resx.data.dataset import DataSet
from resx.errors import MissingCapability, UsageError
from resx.training.config import TrainingConfig
from resx.training.evaluation import accuracy
from resx.training.loop import TrainingRun, train
from resx.training.processes import join_processes
from resx.training.runs import checkpoint
from resx.training.runs.checkpoint import RunProgress
from resx.training.runs.run_metrics import best_of
from resx.training.runs.run_origin import changes_of_computing
from resx.training.runs.tensorboard import event_files, require_tensorboard, write_scalars
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / checkpoint.METRICS).read_text().splitlines()]


def trained(spec: ModelSpec, data: DataSet, config: TrainingConfig, folder: Path, **changes: object) -> list[float]:
    train(TrainingRun(spec=spec, data=data, config=config.model_copy(update=changes), folder=folder))
    return losses_of(folder)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_differs_by_rounding_and_keeps_fp32_weights(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, precision: str
) -> None:
    full = trained(small_spec, small_data, config, tmp_path / "full", epochs=1)
    mixed = trained(small_spec, small_data, config, tmp_path / "mixed", epochs=1, precision=precision)

    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.05)
    weights = load_file(tmp_path / "mixed" / checkpoint.WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}


def test_an_fp16_run_resumes_exactly_with_its_loss_scale(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    def stop(entry: dict[str, object]) -> None:
        raise KeyboardInterrupt

    half = config.model_copy(update={"precision": "fp16"})
    train(TrainingRun(spec=small_spec, data=small_data, config=half, folder=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(TrainingRun(spec=small_spec, data=small_data, config=half, folder=tmp_path / "broken"), on_epoch=stop)
    train(TrainingRun(spec=small_spec, data=small_data, config=half, folder=tmp_path / "broken", resume=True))

    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "whole")
    for name in (checkpoint.WEIGHTS, checkpoint.BEST):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def scaler_of(folder: Path) -> dict[str, float]:
    """The loss scale that a run goes on with, and what it depends on."""
    with safe_open(folder / checkpoint.RESUME, framework="pt") as file:
        return dict(json.loads(file.metadata()["scaler"]))


def test_an_fp16_run_goes_on_with_the_steps_since_its_loss_scale_changed(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    half = config.model_copy(update={"precision": "fp16"})
    train(TrainingRun(spec=small_spec, data=small_data, config=half.model_copy(update={"epochs": 1}), folder=tmp_path))
    assert scaler_of(tmp_path)["_growth_tracker"] == 6
    train(TrainingRun(spec=small_spec, data=small_data, config=half, folder=tmp_path, resume=True, extend=True))
    assert scaler_of(tmp_path)["_growth_tracker"] == 18


def test_an_fp16_run_goes_on_with_its_loss_scale(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    half = config.model_copy(update={"precision": "fp16"})
    train(TrainingRun(spec=small_spec, data=small_data, config=half.model_copy(update={"epochs": 1}), folder=tmp_path))
    begun = scaler_of(tmp_path)
    path = tmp_path / checkpoint.RESUME
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | {"scaler": json.dumps(begun | {"scale": 32.0})})

    train(TrainingRun(spec=small_spec, data=small_data, config=half, folder=tmp_path, resume=True, extend=True))

    assert begun["scale"] == 65536.0
    assert scaler_of(tmp_path)["scale"] == 32.0


def test_channels_last_trains_the_same_run_but_for_rounding_and_its_files_are_the_same(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    first = trained(small_spec, small_data, config, tmp_path / "first", epochs=1)
    model = train(
        TrainingRun(
            spec=small_spec,
            data=small_data,
            config=config.model_copy(update={"epochs": 1, "channels_last": True}),
            folder=tmp_path / "last",
        )
    )

    assert losses_of(tmp_path / "last") == pytest.approx(first, rel=1e-3)
    weight = dict(model.named_parameters())["layer1.0.conv1.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    stored = load_file(tmp_path / "last" / checkpoint.WEIGHTS)["layer1.0.conv1.weight"]
    assert torch.equal(stored, weight)
    assert stored.is_contiguous()


def test_how_a_run_is_computed_may_change_when_it_goes_on_and_its_precision_may_not(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    elsewhere = config.model_copy(
        update={"device": "gpu", "num_processes": 4, "channels_last": True, "compiled": False, "epochs": 1}
    )
    train(TrainingRun(spec=small_spec, data=small_data, config=elsewhere, folder=tmp_path))
    begun = checkpoint.read_config(tmp_path)
    assert (begun.device, begun.num_processes, begun.channels_last) == ("cpu", 1, True)  # what it was computed with
    checkpoint.write_config(tmp_path, elsewhere)  # as if it had been begun there

    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path, resume=True, extend=True))

    assert checkpoint.read_config(tmp_path) == config
    assert changes_of_computing(elsewhere, config) == [
        "device was gpu, is cpu",
        "channels_last was True, is False",
        "num_processes was 4, is 1",
    ]
    with pytest.raises(UsageError, match="precision was fp32, is bf16"):
        train(
            TrainingRun(
                spec=small_spec,
                data=small_data,
                config=config.model_copy(update={"precision": "bf16"}),
                folder=tmp_path,
                resume=True,
            )
        )


def test_every_epoch_says_what_it_was_computed_with(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(
        TrainingRun(
            spec=small_spec,
            data=small_data,
            config=config.model_copy(update={"epochs": 1, "precision": "bf16"}),
            folder=tmp_path,
        )
    )
    entry = json.loads((tmp_path / checkpoint.METRICS).read_text())
    assert (entry["device"], entry["precision"], entry["num_processes"]) == ("cpu", "bf16", 1)


def test_smoothed_labels_raise_the_least_loss_that_can_be_reached(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    plain = trained(small_spec, small_data, config, tmp_path / "plain")
    smooth = trained(small_spec, small_data, config, tmp_path / "smooth", label_smoothing=0.1)

    assert smooth != plain
    # With classes drawn alike and logits near zero both begin near log(10).
    assert smooth[0] == pytest.approx(plain[0], rel=0.1)


def test_clipping_bounds_how_far_a_step_goes(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    plain_sgd = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "warmup": "none"}
    clipped = config.model_copy(update=plain_sgd | {"clip_norm": 0.01})
    model = train(TrainingRun(spec=small_spec, data=small_data, config=clipped, folder=tmp_path))

    begin = dict(build_from_spec(small_spec, seed=config.seed).named_parameters())
    moved = torch.sqrt(sum((p - begin[name]).square().sum() for name, p in model.named_parameters()))
    assert 0 < moved <= 6 * clipped.learning_rate * 0.01 * 1.001  # six steps


def test_what_a_moved_image_leaves_bare_is_black_or_has_the_mean_color(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    light = small_spec.model_copy(update={"mean": (0.0, 0.0, 0.0)})  # then the mean color is black
    losses = [
        trained(spec, small_data, config, tmp_path / f"{number}", padding=padding)
        for number, (spec, padding) in enumerate(
            [(light, "zeros"), (light, "mean"), (small_spec, "zeros"), (small_spec, "mean")]
        )
    ]

    assert losses[0] == losses[1]
    assert losses[2] != losses[3]


def test_a_huge_clip_norm_changes_nothing(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    plain = trained(small_spec, small_data, config, tmp_path / "plain")

    assert trained(small_spec, small_data, config, tmp_path / "clipped", clip_norm=1e9) == plain


def test_the_best_weights_are_those_of_the_first_most_accurate_epoch(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    accuracies: list[float] = []
    kept: list[bytes] = []

    def look(entry: dict[str, float]) -> None:
        accuracies.append(entry["accuracy"])
        kept.append((tmp_path / checkpoint.WEIGHTS).read_bytes())

    train(
        TrainingRun(spec=small_spec, data=small_data, config=config.model_copy(update={"epochs": 8}), folder=tmp_path),
        on_epoch=look,
    )

    best = accuracies.index(max(accuracies))
    assert (tmp_path / checkpoint.BEST).read_bytes() == kept[best]
    model = build_from_spec(small_spec, seed=0)
    model.load_state_dict(load_file(tmp_path / checkpoint.BEST))
    assert accuracy(model, small_spec, small_data.held_out) == max(accuracies)


@pytest.mark.parametrize(
    ("accuracies", "is_best"), [((0.5,), True), ((0.5, 0.6), True), ((0.6, 0.5), False), ((0.5, 0.5), False)]
)
def test_an_epoch_is_best_if_it_beats_all_before_it(accuracies: tuple[float, ...], is_best: bool) -> None:
    progress = RunProgress(epochs_done=len(accuracies), metrics=tuple({"accuracy": value} for value in accuracies))

    assert progress.is_best(TrainingConfig(data="digits")) == is_best


def test_the_best_epoch_is_chosen_on_validation_images_where_there_are_any(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    entries: list[dict[str, float]] = []
    kept: list[bytes] = []

    def look(entry: dict[str, float]) -> None:
        entries.append(entry)
        kept.append((tmp_path / checkpoint.WEIGHTS).read_bytes())

    split = config.model_copy(update={"epochs": 6, "validation": 0.25})
    train(TrainingRun(spec=small_spec, data=small_data, config=split, folder=tmp_path), on_epoch=look)

    assert entries[0]["step"] == 4  # 73 of 96 images are trained on
    validation = [entry["validation_accuracy"] for entry in entries]
    best = validation.index(max(validation))
    assert (tmp_path / checkpoint.BEST).read_bytes() == kept[best]
    assert best_of([{"accuracy": 0.9, "validation_accuracy": 0.1}, {"accuracy": 0.1, "validation_accuracy": 0.9}]) == 1


def test_resuming_writes_what_a_kill_between_two_writes_left_behind(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    once = config.model_copy(update={"epochs": 1})
    train(TrainingRun(spec=small_spec, data=small_data, config=once, folder=tmp_path))
    whole = {name: (tmp_path / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.BEST, checkpoint.METRICS)}
    for name in whole:
        (tmp_path / name).unlink()

    train(TrainingRun(spec=small_spec, data=small_data, config=once, folder=tmp_path, resume=True))

    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_a_missing_capability() -> None:
    with (
        pytest.raises(MissingCapability, match="--device gpu: .*--device cpu trains on the CPU"),
        join_processes("gpu"),
    ):
        pass


def test_tensorboard_that_is_not_there_is_a_missing_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingCapability, match=r"pip install 'resx\[tensorboard\]'"):
        require_tensorboard()


def test_tensorboard_gets_every_metric_at_its_step() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.scalars: list[tuple[str, float, int]] = []

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.scalars.append((tag, scalar_value, global_step))

    recorder = Recorder()
    write_scalars(recorder, {"epoch": 2, "step": 60, "loss": 0.5, "accuracy": 0.75, "device": "cpu"})

    assert recorder.scalars == [("loss", 0.5, 60), ("accuracy", 0.75, 60)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with event_files(tmp_path) as write:
        write({"epoch": 1, "step": 30, "loss": 1.5})
        write({"epoch": 2, "step": 60, "loss": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(30, 1.5), (60, 0.5)]
