"""`resx train --weights`: what a run starts from, and what is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from resx.cli.main import main
from resx.data.digits import digits
from resx.errors import UsageError
from resx.training.config import TrainingConfig
from resx.training.runs import checkpoint
from resx.training.runs.run_origin import read_config
from resx.training.starting_weights import load_starting_weights
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec, read_spec

SPEC = variant("resnet20").spec.with_changes(classes=3, labels=("a", "b", "c"))


def run_folder(folder: Path, spec: ModelSpec, *, seed: int) -> Path:
    """A run of random weights that was not trained."""
    checkpoint.write_run(folder, build_from_spec(spec, seed=seed), spec, TrainingConfig(data="digits"))
    return folder


def head_and_body(tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return tensors["fc.weight"], tensors["layer3.2.conv2.weight"]


@pytest.mark.parametrize(
    ("labels", "is_new", "words"),
    [
        (("a", "b", "c"), False, ""),
        (("a", "b", "d"), True, "; new last layer for 3 classes (the weights have 3 others)"),
        (("a", "b", "c", "d"), True, "; new last layer for 3 classes (the weights have 4)"),
    ],
)
def test_a_run_of_other_classes_gives_all_but_its_last_layer(
    tmp_path: Path, labels: tuple[str, ...], is_new: bool, words: str
) -> None:
    source = run_folder(tmp_path / "run", SPEC.with_changes(classes=len(labels), labels=labels), seed=5)
    given = load_file(source / checkpoint.WEIGHTS)

    start = load_starting_weights(str(source), SPEC, seed=7)

    head, body = head_and_body(start.tensors)
    drawn, _ = head_and_body(build_from_spec(SPEC, seed=7).state_dict())
    assert torch.equal(body, given["layer3.2.conv2.weight"])
    assert torch.equal(head, drawn if is_new else given["fc.weight"])
    assert start.words == f"Weights from {source / checkpoint.WEIGHTS}{words}"


def test_a_file_gives_its_last_layer_if_it_has_as_many_classes(tmp_path: Path) -> None:
    for classes in (3, 7):
        path = tmp_path / f"{classes}.pth"
        model = build_from_spec(SPEC.with_changes(classes=classes), seed=5)
        torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
        head, body = head_and_body(load_starting_weights(str(path), SPEC, seed=7).tensors)
        assert torch.equal(body, model.state_dict()["layer3.2.conv2.weight"])
        assert torch.equal(head, model.state_dict()["fc.weight"]) == (classes == 3)


def test_a_file_without_a_last_layer_is_taken(tmp_path: Path) -> None:
    state = build_from_spec(SPEC, seed=5).state_dict()
    save_file({name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "w.safetensors")

    start = load_starting_weights(str(tmp_path / "w.safetensors"), SPEC, seed=7)

    assert start.words.endswith("; new last layer for 3 classes (the weights have none)")
    assert torch.equal(start.tensors["conv1.weight"], state["conv1.weight"])


def test_weights_of_another_network_are_refused_with_what_differs(tmp_path: Path) -> None:
    save_file(build_from_spec(variant("resnet32").spec, seed=5).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"weights of another architecture: .*unknown"):
        load_starting_weights(str(tmp_path / "w.safetensors"), SPEC, seed=7)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `low` and `high`: 6 images to train on and 2 to hold out of each of the digits 0 to 2, and 3 to 6."""
    root, data = tmp_path_factory.mktemp("pictures"), digits(16)
    for name, classes in (("low", range(3)), ("high", range(3, 7))):
        for number in classes:
            chosen = [index for index, target in enumerate(data.train.targets) if target == number][:8]
            for place, index in enumerate(chosen):
                folder = root / name / ("val" if place > 5 else "train") / f"digit-{number}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(data.train.images[index].transpose(1, 2, 0)).save(folder / f"{index}.png")
    return root


def resx_train(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["resx", "train", "resnet20", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def low(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "low"
    data = ["--data", f"folder:{pictures / 'low'}", "--image-size", 16, "--recipe", "digits", "--survival", 0.8]
    assert resx_train(monkeypatch, *data, "--epochs", 1, "-o", folder, "-q") == 0, capsys.readouterr().err
    capsys.readouterr()
    return folder


def test_a_run_is_fine_tuned_resumed_and_its_curves_are_drawn(
    low: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "high"
    options = ["--freeze", "layer1", "--layer-decay", 0.8, "--ema", 0.5, "--mixup", 0.2, "--augment", "randaugment"]
    options += ["--class-weights", "balanced", "--best-by", "loss", "--patience", 9, "--schedule", "step", "--seed", 3]
    start = ["--data", f"folder:{pictures / 'high'}", "--weights", low, "--epochs", 2, *options]
    assert resx_train(monkeypatch, *start, "-o", folder, "--json") == 0
    out, err = capsys.readouterr()

    assert "new last layer for 4 classes (the weights have 3)" in err
    assert json.loads(out)["recipe"] == "fine-tuning"
    config, spec = read_config(folder), read_spec(folder / "spec.json")
    assert (config.freeze, config.ema, config.mixup, config.best_by, config.patience) == ("layer1", 0.5, 0.2, "loss", 9)
    assert (config.class_weights, config.schedule, config.layer_decay) == ("balanced", "step", 0.8)
    assert (spec.image_size, spec.survival, spec.classes) == (16, 0.8, 4)  # as the run whose weights these are
    before, after = (load_file(one / checkpoint.WEIGHTS) for one in (low, folder))
    assert torch.equal(before["layer1.2.bn2.running_var"], after["layer1.2.bn2.running_var"])
    assert not torch.equal(before["layer2.0.bn2.running_var"], after["layer2.0.bn2.running_var"])
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "curves.svg").read_text()

    # Nothing but the number of epochs is given again.
    assert resx_train(monkeypatch, "--resume", "--extend", "--epochs", 3, "-o", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == 3
    assert read_config(folder) == config.model_copy(update={"epochs": 3})


def test_without_matplotlib_a_run_has_no_curves_and_says_so(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    data = ["--data", f"folder:{pictures / 'low'}", "--image-size", 16, "--epochs", 1]
    assert resx_train(monkeypatch, *data, "-o", tmp_path / "run") == 0
    assert "matplotlib is not installed; pip install 'resx[analysis]'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "imagnet"], "--weights imagnet: no such file or run; did you mean imagenet?"),
        (["--weights", "."], "--weights .: this folder is not a run"),
        (["--weights", "imagenet"], "resnet20: no published ImageNet weights"),
        (["--weights-entry", "ema"], "--weights-entry ema: selects a part of a file; add --weights FILE"),
        (["--freeze", "stem"], "--freeze stem: random stages would never be trained; add --weights"),
        (["--weights", "LOW", "--freeze", "layer7"], "give one of stem, layer1, layer2, layer3, all"),
        (["--weights", "LOW", "--set", "width=8"], "weights of another architecture"),
        (["--augment", "augmix"], "--augment augmix: give one of randaugment, trivialaugment, none"),
        (["--best-by", "f1"], "--best-by f1: give one of accuracy, loss, balanced-accuracy"),
        (["--class-weights", "x"], "--class-weights x: give one of balanced, none"),
        (["--schedule", "linear"], "--schedule linear: give one of cosine, step"),
        (["--ema", "1"], "--ema"),
        (["--cutmix", "nan"], "--cutmix"),
        (["--random-erasing", "1.5"], "--random-erasing"),
        (["--layer-decay", "0"], "--layer-decay"),
        (["--patience", "-1"], "--patience"),
    ],
)
def test_a_wrong_start_is_one_line_and_leaves_nothing(
    low: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    given = [str(low) if argument == "LOW" else argument for argument in arguments]
    code = resx_train(monkeypatch, "--data", f"folder:{pictures / 'high'}", *given, "-o", tmp_path / "new")

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1, err
    assert not (tmp_path / "new").exists()


def test_a_run_of_another_variant_is_refused(
    low: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["resx", "train", "resnet32", "--weights", str(low), "-o", str(tmp_path / "new")])
    with pytest.raises(SystemExit):
        main()
    assert "a run of resnet20, not of resnet32; train resnet20" in capsys.readouterr().err


def test_a_run_with_fewer_blocks_is_fine_tuned_as_it_is(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = variant("resnet20").spec.with_changes(image=digits(16).image, dropped_blocks=(2, 6))
    source = run_folder(tmp_path / "small", spec, seed=1)
    start = ["--data", f"folder:{pictures / 'high'}", "--weights", source, "--epochs", 1, "--freeze", "layer2"]
    assert resx_train(monkeypatch, *start, "-o", tmp_path / "new", "-q") == 0, capsys.readouterr().err

    _, trained = checkpoint.load_run(tmp_path / "new")
    assert trained.dropped_blocks == (2, 6)
    assert trained.mean == spec.mean
