"""The library does what the commands do: train, export, verify, evaluate, with their errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import resx
from resx.api.exporting import Exported
from resx.api.training import Trained
from resx.errors import MissingCapability, ParityError, UsageError
from tests.support.command import Resx


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    seen: list[int] = []
    folder = tmp_path_factory.mktemp("runs") / "digits"
    trained = resx.train("plain20", epochs=1, output=folder, on_epoch=lambda entry: seen.append(entry["epoch"]))
    assert seen == [1]
    return trained


@pytest.fixture(scope="module")
def exported(run: Trained) -> Exported:
    steps: list[str] = []
    made = resx.export(run.folder, repository=run.folder.parent / "models", on_step=steps.append)
    assert "verify the file" in steps
    return made


def test_a_run_says_what_its_folder_holds(run: Trained) -> None:
    stored = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [entry["accuracy"] for entry in stored] == [run.accuracy] == [run.last_accuracy]
    assert (run.best_epoch, run.epochs, run.model) == (1, 1, "plain20")
    with pytest.raises(UsageError, match="digits"):
        resx.train("plain20", output=run.folder)


def test_a_run_starts_from_anothers_weights(run: Trained, tmp_path: Path) -> None:
    tuned = resx.train(
        "plain20", weights=run.folder, freeze="layer2", ema=0.5, best_by="loss", epochs=1, output=tmp_path / "tuned"
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (run.folder, tuned.folder))
    assert torch.equal(before["layer2.0.conv1.weight"], after["layer2.0.conv1.weight"])
    assert not torch.equal(before["layer3.0.conv1.weight"], after["layer3.0.conv1.weight"])
    settings = json.loads((tuned.folder / "training.json").read_text())
    assert (settings["weights"], settings["freeze"], settings["best_by"]) == (str(run.folder), "layer2", "loss")
    with pytest.raises(UsageError, match="a run of plain20, not of resnet20"):
        resx.train("resnet20", weights=run.folder, output=tmp_path / "other")


def test_an_export_is_the_version_that_the_command_sees(exported: Exported, resx: Resx) -> None:
    shown = resx("info", "digits", "--repository", exported.folder.parents[1], "--json").json
    assert exported.folder.name == "1"
    assert exported.file.is_file()
    assert exported.verified
    assert exported.steps
    assert all(step.passed for step in exported.steps)
    assert exported.card.command.startswith("resx.export('")
    assert "repository=" in exported.card.command
    assert exported.card.name in json.dumps(shown)


def test_a_version_is_verified_again_and_a_changed_one_refused(exported: Exported, tmp_path: Path) -> None:
    found = resx.verify("digits", repository=exported.folder.parents[1])
    assert (found.name, found.version) == ("digits", 1)
    assert found.parity is not None
    other = resx.export("plain20", repository=tmp_path, name="m", verify=False)
    with pytest.raises(ParityError, match="differs from"):
        resx.verify(exported.file, other.file)
    other.file.write_bytes(other.file.read_bytes() + b" ")
    with pytest.raises(ParityError, match=r"m version 1: model\.onnx is the verified file"):
        resx.verify("m", repository=tmp_path)
    assert resx.verify(exported.file, exported.file).outputs[0].max_abs == 0


def test_two_models_are_evaluated_on_the_same_images(run: Trained, exported: Exported) -> None:
    found = resx.evaluate(run.folder, against="digits", repository=exported.folder.parents[1])
    assert found.num_images == 355
    assert found.low <= found.accuracy <= found.high
    assert found.against is not None
    assert found.comparison is not None
    assert found.accuracy == pytest.approx(run.accuracy)
    assert found.against.top1.right == found.evaluation.top1.right


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resx.export("nothing"), "nothing"),
        (lambda: resx.export("resnet20", fp16=True, int8=True), "fp16, int8: a file has one precision"),
        (lambda: resx.export("resnet20", max_batch=0), "max_batch=0: give 1 or more"),
        (lambda: resx.export("resnet20", seed=-1), "seed=-1: input should be"),
        (lambda: resx.export("resnet20", mean="0,0,0"), "output_name: resnet20 has its own"),
        (lambda: resx.export("resnet20", channels="bgr"), "output_name: resnet20 has its own"),
        (lambda: resx.export("resnet20", channels="cmyk"), "channels='cmyk'"),
        (lambda: resx.export("resnet20", target="tpu"), "target tpu: give one of cpu, gpu"),
        (lambda: resx.train("resnet20", epochs=0), "epochs=0"),
        (lambda: resx.train("resnet20", settings=["classes=3"]), "classes"),
        (lambda: resx.verify("a.onnx"), "a second .onnx file"),
        (lambda: resx.evaluate("resnet20", part="some"), "part some: give one of held-out, train, all"),
        (lambda: resx.evaluate("nothing"), "nothing"),
        (lambda: resx.serve("a", repository="none").__enter__(), "none: no such model repository"),
        (lambda: resx.Client("ftp://host:1"), "ftp://host:1"),
        (lambda: resx.bench("a", data="nowhere"), "data nowhere: no such folder"),
        (lambda: resx.bench("a", concurrency=0), "concurrency"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(call, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        call()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*"))


def test_where_no_server_answers_a_capability_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability), resx.Client("127.0.0.1:9", repository=tmp_path) as client:
        client.query("m", [])
