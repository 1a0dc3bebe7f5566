"""A run keeps each row, goes on where it stopped, and trains what its keys say."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.experiments import training
from benchmarks.experiments.__main__ import main
from benchmarks.experiments.catalog import EXPERIMENTS
from benchmarks.experiments.degradation import EXPERIMENT
from benchmarks.experiments.lesions import EXPERIMENT as LESIONS
from benchmarks.experiments.rows import Row, RowsFile
from benchmarks.experiments.running import Plan, run, trials
from benchmarks.experiments.training import Setting, train_network, with_noisy_labels

from resx.data.dataset import DataSet, Split
from resx.data.loading import load_data
from resx.errors import UsageError
from resx.zoo.depths import plain_cifar, resnet_cifar

TINY = (
    Setting(network="plain8", epochs=1, architecture=plain_cifar(8)),
    Setting(network="resnet8", epochs=1, architecture=resnet_cifar(8)),
)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """128 digits to train on, and 64 held out."""
    data = load_data("digits", image_size=8)
    part = {
        name: Split(images=split.images[np.arange(count)], targets=split.targets[:count])
        for name, split, count in (("train", data.train, 128), ("held_out", data.held_out, 64))
    }
    small = replace(data, **part)
    monkeypatch.setattr(training, "_load", lambda _name: small)
    return small


def test_a_tiny_experiment_runs_to_its_rows(tmp_path: Path, few: DataSet) -> None:
    file = RowsFile(path=tmp_path / "rows.json")
    experiment = replace(EXPERIMENT, settings=TINY)
    plan = Plan(experiments=[experiment], num_seeds=2)
    assert run(plan, file, tmp_path / "runs") == 4

    rows = file.read()
    assert {(row.network, row.seed) for row in rows.values()} == {(n, s) for n in ("plain8", "resnet8") for s in (0, 1)}
    for row in rows.values():
        assert row.loss is not None
        assert row.loss > 0
        assert row.accuracy is not None
        assert (row.accuracy * 64) % 1 == pytest.approx(0, abs=1e-3)
        assert row.seconds > 0
    assert len({row.loss for row in rows.values()}) == 4
    assert "degradation / plain8 / digits, 16 px / digits recipe, batch 32, rate 0.05 / 1 epochs / seed 1" in rows


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, few: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RowsFile(path=tmp_path / "rows.json")
    experiment = replace(EXPERIMENT, settings=TINY[:1])
    assert run(Plan(experiments=[experiment], num_seeds=1), file, tmp_path / "runs") == 1
    before = file.read()

    def trained_again(setting: Setting, seed: int, _runs: Path) -> None:
        assert (setting.network, seed) == ("plain8", 1), "seed 0 is known"

    monkeypatch.setattr("benchmarks.experiments.running.train_network", trained_again)
    assert run(Plan(experiments=[experiment], num_seeds=2), file, tmp_path / "runs") == 1
    after = file.read()
    assert before.items() < after.items()
    assert next(row for row in after.values() if row.seed == 1).diverged


def test_two_experiments_share_a_trained_network(tmp_path: Path, few: DataSet) -> None:
    first = train_network(TINY[1], 3, tmp_path)
    folders = sorted(path.name for path in tmp_path.iterdir())
    second = train_network(TINY[1], 3, tmp_path)
    assert first is not None
    assert second is not None
    assert (first.loss, first.seconds) == (second.loss, second.seconds)
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    other = replace(TINY[1], learning_rate=0.01)
    assert train_network(other, 3, tmp_path) is not None
    assert len(list(tmp_path.iterdir())) == 2 * len(folders)


def test_a_training_that_diverges_is_a_row(tmp_path: Path, few: DataSet) -> None:
    file = RowsFile(path=tmp_path / "rows.json")
    wild = replace(TINY[0], learning_rate=1e30)
    assert run(Plan(experiments=[replace(EXPERIMENT, settings=(wild,))], num_seeds=1), file, tmp_path / "runs") == 1
    (row,) = file.read().values()
    assert row.diverged
    assert row.accuracy is None


def test_lesions_are_measured_of_a_trained_network(tmp_path: Path, few: DataSet) -> None:
    file = RowsFile(path=tmp_path / "rows.json")
    setting = Setting(network="resnet14", epochs=1, architecture=resnet_cifar(14))
    run(Plan(experiments=[replace(LESIONS, settings=(setting,))], num_seeds=1), file, tmp_path / "runs")
    (row,) = file.read().values()
    assert len(row.series["single"]) == 6
    assert row.accuracy is not None
    assert row.series["deleted"][0] == pytest.approx(1 - row.accuracy, abs=1e-4)
    assert row.values["single_worst"] == pytest.approx(max(row.series["single"]) - row.series["deleted"][0], abs=1e-4)
    assert len(row.series["taus"]) == len(row.series["order_errors"]) == 60


def test_noisy_labels_are_wrong_in_that_share_and_held_out_ones_stay() -> None:
    data = load_data("digits", image_size=8)
    noisy = with_noisy_labels(data, 0.2, seed=4)
    wrong = noisy.train.targets != data.train.targets
    assert wrong.sum() == round(0.2 * len(data.train))
    assert set(np.unique(noisy.train.targets)) <= set(range(10))
    assert np.array_equal(noisy.held_out.targets, data.held_out.targets)
    assert np.array_equal(with_noisy_labels(data, 0.2, seed=4).train.targets, noisy.train.targets)
    assert not np.array_equal(with_noisy_labels(data, 0.2, seed=5).train.targets, noisy.train.targets)
    assert noisy.fingerprint != data.fingerprint


def test_only_rows_whose_keys_hold_every_text_are_run() -> None:
    plan = Plan(experiments=[EXPERIMENT], num_seeds=2, only=("56", "seed 1"))
    assert [row.network for _, _, row in trials(plan)] == ["plain56", "resnet56"]


def test_the_longest_variants_have_three_seeds_and_all_others_five() -> None:
    seeds: dict[str, set[int]] = {}
    for _, setting, row in trials(Plan(experiments=list(EXPERIMENTS.values()))):
        seeds.setdefault(f"{row.experiment} {setting.data} {setting.epochs}", set()).add(row.seed)
    three = {key for key, some in seeds.items() if some == {0, 1, 2}}
    assert three == {f"stochastic-depth {rest}" for rest in ("digits 20", "digits 40", "mnist5k 40")}
    assert all(seeds[key] == {0, 1, 2, 3, 4} for key in seeds.keys() - three)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_can_be_handed_to_another_process(name: str) -> None:
    experiment = pickle.loads(pickle.dumps(EXPERIMENTS[name]))
    assert experiment == EXPERIMENTS[name]


def test_rows_of_another_process_are_not_lost(tmp_path: Path) -> None:
    ours, theirs = (RowsFile(path=tmp_path / "rows.json") for _ in range(2))
    rows = [Row(experiment="e", network=n, data="d", recipe="r", epochs=1, seed=0, loss=1.0) for n in "ab"]
    ours.add(rows[0])
    theirs.add(rows[1])
    ours.add(rows[0].model_copy(update={"loss": 2.0}))
    assert [(row.network, row.loss) for row in ours.read().values()] == [("a", 2.0), ("b", 1.0)]
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 2


def test_a_file_of_something_else_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "rows.json").write_text('{"rows": [{"network": 1}]}')
    with pytest.raises(UsageError, match=r"rows\.json"):
        RowsFile(path=tmp_path / "experiments" / "rows.json").read()
    assert main(["--page", "--docs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "experiments.md").exists()


def test_an_unknown_experiment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["degradatoin"])
    assert ended.value.code == 2
    assert "no such experiment; give degradation" in capsys.readouterr().err
