"""`resx export --weights`: files of weights as people have them, with the real command."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from tests.conftest import Finished

SETTING = "stage_depths=[1,1,1]"


def state(seed: int, classes: int = 10) -> dict[str, torch.Tensor]:
    spec = variant("resnet20").spec.with_settings([SETTING, f"classes={classes}"])
    return build_from_spec(spec, seed=seed).state_dict()


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def test_a_wrapped_checkpoint_gives_the_bytes_of_the_clean_one(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    torch.save(state(1), tmp_path / "clean.pth")
    torch.save({"model": state(2), "model_ema": under("_orig_mod.module.", state(1))}, tmp_path / "k.pth")
    command = ("export", "resnet20", "--set", SETTING, "--json")
    clean = resx(*command, "--weights", "clean.pth", "--name", "clean")
    average = resx(*command, "--weights", "k.pth", "--name", "average")
    plain = resx(*command, "--weights", "k.pth", "--weights-entry", "model", "--name", "plain")
    assert [done.code for done in (clean, average, plain)] == [0, 0, 0], average.err
    assert average.json["weights"] == "k.pth (entry model_ema), EMA preferred to model"
    assert plain.json["weights"] == "k.pth (entry model)"
    models = [Path(tmp_path / done.json["file"]).read_bytes() for done in (clean, average, plain)]
    assert models[0] == models[1] != models[2]

    card = tmp_path / "model_repository/plain/1/card.json"
    assert json.loads(card.read_text())["source"]["arguments"]["weights_entry"] == "model"
    assert resx("export", "--reproduce", card, "-q").code == 0
    assert resx("verify", "plain", "-q").code == 0


def test_other_classes_and_other_contents_are_refused_in_one_line(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    torch.save({"state_dict": under("net.", state(1, classes=14))}, tmp_path / "c.pth")
    torch.save({"model": state(1), "args": argparse.Namespace(lr=0.1)}, tmp_path / "args.pth")
    command = ("export", "resnet20", "--set", SETTING, "-q", "--no-verify")
    for arguments, words in {
        ("--weights", "c.pth"): "holds 14 classes, resnet20 has 10: --set classes=14",
        ("--weights", "args.pth"): "it also holds argparse.Namespace; save the tensors alone: python -c",
        ("--weights", "c.pth", "--set", "classes=14", "--weights-entry", "ema"): "c.pth holds state_dict; give one",
        ("--weights-entry", "ema"): "names a part of a file; add --weights FILE",
    }.items():
        done = resx(*command, *arguments)
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert words in done.err
    assert not (tmp_path / "model_repository").exists()
    done = resx(*command, "--weights", "c.pth", "--set", "classes=14", "--json")
    assert done.code == 0, done.err
    assert (
        json.loads((tmp_path / "model_repository/resnet20/1/card.json").read_text())["source"]["spec"]["classes"] == 14
    )


def test_the_data_of_a_training_say_how_many_classes_there_are(resx: Callable[..., Finished]) -> None:
    done = resx("train", "resnet20", "--data", "digits", "--set", "classes=14", "-o", "r")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--set classes: the data digits have their own" in done.err
