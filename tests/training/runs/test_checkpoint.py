from collections.abc import Callable
from pathlib import Path

import pytest

from resx.data.dataset import DataSet
from resx.errors import UsageError
from resx.training.config import TrainingConfig
from resx.training.loop import TrainingRun, train
from resx.training.runs import checkpoint
from resx.zoo.spec import ModelSpec


@pytest.fixture
def run(small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path) -> Path:
    train(
        TrainingRun(
            spec=small_spec, data=small_data, config=config.model_copy(update={"epochs": 1}), folder=tmp_path / "run"
        )
    )
    return tmp_path / "run"


@pytest.fixture
def resume(run: Path, small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig) -> Callable[[], object]:
    return lambda: train(
        TrainingRun(
            spec=small_spec, data=small_data, config=config.model_copy(update={"epochs": 1}), folder=run, resume=True
        )
    )


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_whole_run_resumes_and_stays_as_it_is(run: Path, resume: Callable[[], object]) -> None:
    kept = [run / name for name in (checkpoint.WEIGHTS, checkpoint.METRICS, "spec.json")]
    before = [path.read_bytes() for path in kept]
    resume()
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize(
    "damage", [halve, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 99)]
)
@pytest.mark.parametrize("name", [checkpoint.RESUME, checkpoint.CONFIG, "spec.json"])
def test_a_damaged_file_is_named_when_the_run_is_resumed(
    run: Path, resume: Callable[[], object], name: str, damage: Callable[[Path], object]
) -> None:
    damage(run / name)

    with pytest.raises(UsageError, match=name) as caught:
        resume()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [halve, lambda path: path.write_bytes(b""), Path.unlink])
@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, "spec.json"])
def test_a_damaged_or_missing_file_is_named_when_the_run_is_loaded(
    run: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(run / name)

    with pytest.raises(UsageError, match=name):
        checkpoint.load_run(run)


def test_a_resume_file_without_its_metadata_is_refused(run: Path, resume: Callable[[], object]) -> None:
    from safetensors.torch import load_file, save_file

    save_file(load_file(run / checkpoint.RESUME), run / checkpoint.RESUME)

    with pytest.raises(UsageError, match=checkpoint.RESUME):
        resume()


def test_weights_of_another_network_are_refused_with_their_names(run: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(run / checkpoint.WEIGHTS)
    state["stranger"] = state.pop("fc.bias")
    save_file(state, run / checkpoint.WEIGHTS)

    with pytest.raises(UsageError, match=r"1 missing \(fc\.bias\); 1 unknown \(stranger\)"):
        checkpoint.load_run(run)


def test_a_new_run_in_an_old_folder_leaves_nothing_of_the_old_one(
    run: Path, small_spec: ModelSpec, config: TrainingConfig
) -> None:
    checkpoint.begin_run(run, small_spec, config)

    assert {path.name for path in run.iterdir()} == {"spec.json", checkpoint.CONFIG}


def test_no_file_of_a_run_is_a_pickle(run: Path) -> None:
    for path in run.iterdir():
        start = path.read_bytes()[:2]
        assert start[:1] != b"\x80", path
        assert start != b"PK", path
