"""Training on: a finished run with more epochs, and a run with fewer blocks."""

import sys
from pathlib import Path

import pytest

from resx.cli.main import main
from resx.data.dataset import DataSet
from resx.data.loading import load_data
from resx.errors import UsageError
from resx.training.config import TrainingConfig, learning_rate_at
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from resx.training.runs import checkpoint
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec
from resx.zoo.weights.pretrained import read_weights
from tests.support.runs import metrics_of, stop_after


def test_a_finished_run_is_trained_on_with_the_schedule_of_so_many_epochs(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    longer = config.model_copy(update={"epochs": 5})
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    first = metrics_of(tmp_path)

    train(TrainingRun(spec=small_spec, data=small_data, config=longer, folder=tmp_path, resume=True, extend=True))

    entries = metrics_of(tmp_path)
    assert entries[:3] == first
    assert [entry["epoch"] for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry["learning_rate"] for entry in entries[3:]] == [learning_rate_at(longer, step, 6) for step in (23, 29)]
    assert entries[3]["learning_rate"] > entries[2]["learning_rate"]
    assert checkpoint.read_config(tmp_path) == longer
    assert checkpoint.load_run(tmp_path)


def test_an_extension_that_is_killed_goes_on_with_the_same_command_or_without_extend_bit_for_bit(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    longer = config.model_copy(update={"epochs": 6})
    for name in ("whole", "broken"):
        train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / name))
    train(
        TrainingRun(
            spec=small_spec, data=small_data, config=longer, folder=tmp_path / "whole", resume=True, extend=True
        )
    )

    for epoch in (4, 5):
        with pytest.raises(KeyboardInterrupt):
            train(
                TrainingRun(
                    spec=small_spec,
                    data=small_data,
                    config=longer,
                    folder=tmp_path / "broken",
                    resume=True,
                    extend=True,
                ),
                on_epoch=stop_after(epoch),
            )
        assert len(metrics_of(tmp_path / "broken")) == epoch
    train(TrainingRun(spec=small_spec, data=small_data, config=longer, folder=tmp_path / "broken", resume=True))

    for file in (checkpoint.WEIGHTS, checkpoint.BEST):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")


def test_more_epochs_without_extend_are_refused_with_the_remedy(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))

    with pytest.raises(UsageError, match=r"epochs was 3, is 8; use the same number, --extend to train until epoch 8"):
        train(
            TrainingRun(
                spec=small_spec,
                data=small_data,
                config=config.model_copy(update={"epochs": 8}),
                folder=tmp_path,
                resume=True,
            )
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2}, "--epochs 2: 3 are finished already; choose more epochs"),
        ({"epochs": 8, "seed": 9}, "seed was 7, is 9"),
        ({"epochs": 8, "batch_size": 8}, "batch_size was 16, is 8"),
    ],
)
def test_an_extension_changes_nothing_but_the_epochs_to_come(
    small_spec: ModelSpec,
    small_data: DataSet,
    config: TrainingConfig,
    tmp_path: Path,
    changes: dict[str, int],
    message: str,
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(UsageError, match=message):
        train(
            TrainingRun(
                spec=small_spec,
                data=small_data,
                config=config.model_copy(update=changes),
                folder=tmp_path,
                resume=True,
                extend=True,
            )
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_with_fewer_blocks_is_trained_on_from_its_weights(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    smaller = small_spec.with_changes(dropped_blocks=(1,), survival=1.0)
    still = config.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
    model = build_from_spec(smaller, seed=99)
    checkpoint.write_run(tmp_path / "run", model, smaller, still)
    shown = model.state_dict()["fc.weight"].clone()

    train(TrainingRun(spec=smaller, data=small_data, config=still, folder=tmp_path / "run", resume=True))

    assert read_weights(tmp_path / "run" / checkpoint.WEIGHTS)["fc.weight"].sub(shown).abs().max() < 1e-9
    assert len(metrics_of(tmp_path / "run")) == 1


def test_a_run_whose_state_was_deleted_does_not_begin_again_over_its_weights(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path))
    (tmp_path / checkpoint.RESUME).unlink()

    with pytest.raises(UsageError, match=r"resume\.safetensors: no such file, so the run cannot be resumed"):
        train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path, resume=True))


def test_the_command_takes_from_a_shrunken_run_what_no_option_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("digits", image_size=8)
    whole = variant("resnet20").spec.with_changes(classes=10, labels=data.labels, image=data.image, survival=0.5)
    spec = whole.with_changes(dropped_blocks=(2, 5))
    gentle = configure("digits", "digits", {"epochs": 9, "batch_size": 256, "learning_rate": 0.005, "warmup": "none"})
    checkpoint.write_run(tmp_path / "small", build_from_spec(spec, seed=0), spec, gentle)
    arguments = ["resx", "train", "resnet20", "--resume", "--extend", "--epochs", "1", "-q", "-o"]
    monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path / "small")])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 0
    _, found = checkpoint.load_run(tmp_path / "small")
    assert found == spec
    assert checkpoint.read_config(tmp_path / "small") == gentle.model_copy(update={"epochs": 1})
    assert len(metrics_of(tmp_path / "small")) == 1


# `preresnet110` and `highway19` as they were built before: the files of such a run say so, and no field is missing.
EARLIER = {
    "preresnet110": {"family": "preresnet", "block": "basic", "stage_depths": (1, 1, 1), "width": 4, "stem": "cifar"},
    "highway19": {"family": "highway", "stage_depths": (2, 2), "stage_widths": (4, 6)},
}


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_run_goes_on_with_its_own_network_when_its_name_means_another_by_now(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("digits", image_size=8)
    fields = variant(name).spec.model_dump() | {"architecture": EARLIER[name], "labels": data.labels}
    spec = ModelSpec.model_validate(fields | data.image.model_dump())
    config = configure("digits", "digits", {"epochs": 1, "batch_size": 256, "learning_rate": 0.001})
    train(TrainingRun(spec=spec, data=data, config=config, folder=tmp_path))
    written = (tmp_path / "spec.json").read_text()
    monkeypatch.setattr(
        sys, "argv", ["resx", "train", name, "--resume", "--extend", "--epochs", "2", "-o", str(tmp_path)]
    )

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 0
    assert (tmp_path / "spec.json").read_text() == written
    assert len(metrics_of(tmp_path)) == 2
    assert f"keeps its own network: {name} with stage_depths=" in capsys.readouterr().err


def test_a_setting_that_is_typed_is_not_taken_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("digits", image_size=8)
    spec = variant("resnet20").spec.with_settings(["width=4"])
    spec = spec.with_changes(classes=10, labels=data.labels, image=data.image)
    config = configure("digits", "digits", {"epochs": 1, "batch_size": 256})
    checkpoint.begin_run(tmp_path, spec, config)
    monkeypatch.setattr(sys, "argv", ["resx", "train", "resnet20", "--resume", "--set", "width=8", "-o", str(tmp_path)])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert "another network: architecture.width was 4, is 8" in capsys.readouterr().err
