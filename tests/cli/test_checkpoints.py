"""`resx export --weights`: files of weights as people have them, with the real command."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from resx.card.card import read_card
from resx.export.repetition import reload_source
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from tests.support.command import Finished

SETTINGS = ("stage_depths=[1,1,1]", "classes=14")
COMMAND = ("export", "resnet20", "--set", SETTINGS[0])


def state(seed: int) -> dict[str, torch.Tensor]:
    return build_from_spec(variant("resnet20").spec.with_settings(SETTINGS), seed=seed).state_dict()


def test_the_average_in_a_checkpoint_gives_the_bytes_of_the_clean_file(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    torch.save(state(1), tmp_path / "clean.pth")
    wrapped = {f"_orig_mod.module.{name}": tensor for name, tensor in state(1).items()}
    torch.save({"model": state(2), "model_ema": wrapped}, tmp_path / "k.pth")
    command = (*COMMAND, "--set", SETTINGS[1], "--no-verify", "--json")
    clean = resx(*command, "--weights", "clean.pth", "--name", "clean")
    average = resx(*command, "--weights", "k.pth", "--name", "average")
    assert (clean.code, average.code) == (0, 0), average.err
    assert (clean.json["weights"], average.json["weights"]) == (
        "clean.pth",
        "k.pth (entry model_ema), EMA preferred to model",
    )
    assert (tmp_path / clean.json["file"]).read_bytes() == (tmp_path / average.json["file"]).read_bytes()


def test_the_chosen_entry_is_in_the_card_and_taken_again(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    torch.save({"model": state(1), "model_ema": state(2)}, tmp_path / "k.pth")
    command = (*COMMAND, "--set", SETTINGS[1], "--no-verify", "-q", "-v")
    done = resx(*command, "--weights", tmp_path / "k.pth", "--weights-entry", "model")
    assert done.code == 0, done.err
    assert "k.pth (entry model)" in done.out
    card = read_card(tmp_path / "model_repository/resnet20/1")
    assert card.source.arguments is not None
    assert (card.source.arguments.weights_entry, card.signature.num_outputs) == ("model", 14)
    weights = dict(reload_source(card, card.source.arguments).model.state_dict())
    assert torch.equal(weights["conv1.weight"], state(1)["conv1.weight"])
    assert resx("export", "--reproduce", tmp_path / "model_repository/resnet20/1/card.json", "-q").code == 0


def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    torch.save({"model": state(1), "args": argparse.Namespace(lr=0.1)}, tmp_path / "k.pth")
    done = resx(*COMMAND, "-q", "--weights", "k.pth")
    assert (done.code, done.err.count("\n"), done.err.strip().isprintable()) == (2, 1, True)
    assert "it also holds argparse.Namespace; save only the tensors: python -c" in done.err
    done = resx(*COMMAND, "-q", "--weights-entry", "ema")
    assert (done.code, done.err) == (2, "error: --weights-entry ema: selects a part of a file; add --weights FILE\n")
    assert not (tmp_path / "model_repository").exists()


def test_the_data_of_a_training_say_how_many_classes_there_are(resx: Callable[..., Finished]) -> None:
    done = resx("train", "resnet20", "--data", "digits", "--set", "classes=14", "-o", "r")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--set classes: the data set digits has its own" in done.err
