"""Two processes on a CPU do what one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resx.data.digits import digits
from resx.errors import UsageError
from resx.training.evaluation import accuracy
from resx.training.processes import Processes, join_processes
from resx.training.runs.checkpoint import load_run
from resx.training.runs.run_origin import read_config

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SCRIPT = str(Path(__file__).parents[1] / "support" / "gradients_of_a_step.py")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # One thread each, as torchrun sets it: another number of threads rounds otherwise, and training amplifies it.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def test_the_parts_of_a_batch_are_equal_and_in_order() -> None:
    parts = [Processes(rank=rank, count=4).part(12) for rank in range(4)]

    assert [list(range(12))[part] for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_a_batch_that_cannot_be_divided_equally_is_refused() -> None:
    with pytest.raises(UsageError, match=r"batch_size=10: .*give a multiple of 4"):
        Processes(rank=0, count=4).part(10)


COMPLETE = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set, RANK is not"),
        ({"WORLD_SIZE": "1"}, "WORLD_SIZE=1 is set, RANK is not"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "WORLD_SIZE=2 is set, RANK is not"),
        ({"RANK": "0"}, "RANK=0 is set, WORLD_SIZE is not"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 is set, WORLD_SIZE is not"),
        (COMPLETE | {"MASTER_ADDR": ""}, "WORLD_SIZE=2 is set, MASTER_ADDR is not"),
        (COMPLETE | {"MASTER_ADDR": "no host"}, "MASTER_ADDR=no host: cannot be resolved"),
        (COMPLETE | {"MASTER_PORT": ""}, "WORLD_SIZE=2 is set, MASTER_PORT is not"),
        (COMPLETE | {"MASTER_PORT": "http"}, "MASTER_PORT=http: give a number"),
        (COMPLETE | {"MASTER_PORT": "65536"}, "MASTER_PORT=65536: give a port from 1 to 65535"),
        (COMPLETE | {"RANK": "2"}, "RANK=2: WORLD_SIZE=2 processes have 0 to 1"),
        (COMPLETE | {"LOCAL_RANK": "2"}, "LOCAL_RANK=2: WORLD_SIZE=2 processes have 0 to 1"),
        (COMPLETE | {"RANK": "-1"}, "RANK=-1: give a number, 0 or more"),
        (COMPLETE | {"RANK": "1.0"}, "RANK=1.0: give a number"),
        (COMPLETE | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two: give a number"),
        (COMPLETE | {"WORLD_SIZE": "²"}, "give a number"),
        (COMPLETE | {"WORLD_SIZE": "9" * 5000}, "give a number"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE=0: give 1 process or more"),
    ],
)
def test_torchruns_variables_are_all_there_or_refused_with_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in COMPLETE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UsageError, match=message) as caught, join_processes("cpu"):
        pass
    assert "\n" not in str(caught.value)
    assert "torchrun" in str(caught.value)


@pytest.mark.parametrize(
    "variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"MASTER_ADDR": "a"}, {"WORLD_SIZE": "", "RANK": ""}]
)
def test_without_others_a_process_is_alone(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in COMPLETE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with join_processes("cpu") as place:
        assert (place.rank, place.count) == (0, 1)


# In FP64 rounding is so small that any other statistics, gradient or dropped block would show.
@pytest.mark.parametrize("name", ["resnet20"])
def test_loss_gradients_and_statistics_of_a_step_are_those_of_one_process(name: str, tmp_path: Path) -> None:
    alone = run(sys.executable, SCRIPT, name, str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    spread = run(*TORCHRUN, SCRIPT, name, str(tmp_path / "two"))
    assert spread.returncode == 0, spread.stderr

    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert two.keys() == one.keys()
    num_parameters = sum(1 for name in one if name.endswith((".weight", ".bias")) and not name.startswith("gradient."))
    assert sum(name.startswith("gradient.") for name in one) < num_parameters  # blocks were dropped
    for key, expected in one.items():
        torch.testing.assert_close(
            two[key], expected, rtol=1e-9, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.slow
def test_a_run_of_two_processes_is_the_run_of_one_within_rounding(tmp_path: Path) -> None:
    arguments = ["-m", "resx", "train", "resnet20", "--survival", "0.5", "--image-size", "8", "--epochs", "2"]
    arguments += ["--batch-size", "64", "--learning-rate", "0.01", "-o"]
    one = run(sys.executable, *arguments, str(tmp_path / "one"), "--json")
    assert one.returncode == 0, one.stderr
    two = run(*TORCHRUN, *arguments, str(tmp_path / "two"), "--json")
    assert two.returncode == 0, two.stderr

    assert len(two.stdout.splitlines()) == 1, two.stdout  # only the first process speaks
    last = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["num_processes"], read_config(tmp_path / "two").num_processes) == (2, 2)
    # Each evaluates its share: together it is the accuracy of the run as one process sees it.
    model, spec = load_run(tmp_path / "two")
    assert last["accuracy"] == pytest.approx(accuracy(model, spec, digits(8).held_out), abs=1.5 / 355)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    # Rounding grows from step to step: 22 steps in the first epoch, as many again in the second.
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-6)
    assert losses[1][1] == pytest.approx(losses[0][1], rel=1e-3)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    refused = run(*TORCHRUN, "-m", "resx", "train", "resnet20", "-o", str(tmp_path))

    assert refused.returncode != 0
    assert "contains other files" in refused.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt"}


def start(rank: int, port: int, *arguments: str) -> subprocess.Popen[str]:
    """Start one of two processes as torchrun does, which would end the other itself."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    environment = os.environ | place | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "resx", "train", "resnet20", "--image-size", "8", "--batch-size", "64"]
    return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=environment)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_other_with_one_line_and_the_finished_epochs_stay(
    tmp_path: Path, killed: int
) -> None:
    port, run_folder = free_port(), tmp_path / "run"
    arguments = ["--epochs", "1000", "-o", str(run_folder), "--device", "cpu"]
    with start(0, port, *arguments) as first, start(1, port, *arguments) as second:
        assert first.stderr is not None
        assert second.stderr is not None
        assert any("epoch 1/1000" in line for line in first.stderr)
        (first, second)[killed].kill()
        left = (second, first)[killed]
        assert left.stderr is not None
        said = [line for line in left.stderr.read().splitlines() if "error: " in line or "Traceback" in line]
        assert left.wait(timeout=120) == 1
    assert said == ["error: another process of this run has ended; its message says why"]
    assert (run_folder / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_process_that_refuses_its_own_data_ends_the_other_with_one_line(tmp_path: Path) -> None:
    port, run_folder = free_port(), tmp_path / "run"
    arguments = ["--epochs", "2", "-o", str(run_folder), "--device", "cpu"]
    with start(0, port, *arguments) as first, start(1, port, *arguments, "--data", "folder:/nowhere") as second:
        _, refused = second.communicate(timeout=300)
        _, said = first.communicate(timeout=300)
    assert second.returncode == 2
    assert "/nowhere: no such folder" in refused
    assert (first.returncode, said.splitlines()[-1]) == (
        1,
        "error: another process of this run has ended; its message says why",
    )
    assert "Traceback" not in said
