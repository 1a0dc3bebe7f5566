"""What only a GPU can show of training; `make gpu` runs it."""

import json
from pathlib import Path

import pytest
import torch

from resx.data.dataset import DataSet
from resx.training.batches import batches_of, prepare_ahead, seed_epoch, send
from resx.training.config import TrainingConfig
from resx.training.devices import choose_device, computes_bf16
from resx.training.loop import TrainingRun, train
from resx.training.processes import Processes
from resx.training.runs import checkpoint
from resx.zoo.spec import ModelSpec
from tests.support.runs import metrics_of, stop_after

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that PyTorch can use"),
]

ON_GPU = Processes(device=torch.device("cuda"))


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / checkpoint.METRICS).read_text().splitlines()]


def test_the_gpu_is_chosen() -> None:
    assert choose_device("auto") == "gpu"


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "fp16", "channels_last": True}, {"precision": "bf16", "channels_last": True}]
)
def test_a_run_on_the_gpu_is_the_run_on_the_cpu_but_for_rounding(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, changes: dict[str, object]
) -> None:
    if changes.get("precision") == "bf16" and not computes_bf16("gpu"):
        pytest.skip("this GPU does not compute bf16")
    config = config.model_copy(update={"epochs": 1})
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "cpu"))
    train(
        TrainingRun(
            spec=small_spec, data=small_data, config=config.model_copy(update=changes), folder=tmp_path / "gpu"
        ),
        processes=ON_GPU,
    )

    assert losses_of(tmp_path / "gpu") == pytest.approx(losses_of(tmp_path / "cpu"), rel=0.05 if changes else 1e-3)
    assert checkpoint.read_config(tmp_path / "gpu").device == "gpu"
    assert metrics_of(tmp_path / "gpu")[0]["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_on_the_gpu_equals_an_uninterrupted_one_bit_for_bit(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, precision: str
) -> None:
    config = config.model_copy(update={"precision": precision, "channels_last": precision == "fp16"})
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "whole"), processes=ON_GPU)
    with pytest.raises(KeyboardInterrupt):
        train(
            TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken"),
            processes=ON_GPU,
            on_epoch=stop_after(1),
        )
    train(
        TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path / "broken", resume=True),
        processes=ON_GPU,
    )

    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")
    for name in (checkpoint.WEIGHTS, checkpoint.BEST):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_begun_on_the_gpu_goes_on_on_the_cpu(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    train(
        TrainingRun(spec=small_spec, data=small_data, config=config.model_copy(update={"epochs": 1}), folder=tmp_path),
        processes=ON_GPU,
    )
    train(TrainingRun(spec=small_spec, data=small_data, config=config, folder=tmp_path, resume=True, extend=True))
    assert [entry["device"] for entry in metrics_of(tmp_path)][1:] == ["cpu", "cpu"]


def test_batches_arrive_on_the_gpu_whole_and_in_order(small_data: DataSet, config: TrainingConfig) -> None:
    host = list(batches_of(small_data.train, config, Processes(), 0, seed_epoch(config.seed, 0)))
    sent = list(prepare_ahead(send(iter(host), torch.device("cuda"))))
    for one, other in zip(sent, host, strict=True):
        arrived = one.arrive()
        assert arrived.copied is not None
        assert arrived.images.cpu().equal(other.images)
        assert arrived.targets.cpu().equal(other.targets)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler, as are the others
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("survival", [1.0, 0.5])
def test_a_compiled_run_on_the_gpu_is_the_run_but_for_rounding(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, survival: float
) -> None:
    spec, config = small_spec.with_changes(survival=survival), config.model_copy(update={"epochs": 1})
    train(TrainingRun(spec=spec, data=small_data, config=config, folder=tmp_path / "eager"), processes=ON_GPU)
    compiled = config.model_copy(update={"compiled": True, "channels_last": True, "precision": "fp16"})
    train(TrainingRun(spec=spec, data=small_data, config=compiled, folder=tmp_path / "compiled"), processes=ON_GPU)
    assert losses_of(tmp_path / "compiled") == pytest.approx(losses_of(tmp_path / "eager"), rel=0.05)
