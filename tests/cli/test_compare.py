"""`resx compare`: real forms side by side, one of them published, and all that is refused before anything is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resx.repository.versions import Repository
from resx.training.recipes import configure
from resx.training.runs.checkpoint import write_run
from tests.cli.test_json_schema import require_described
from tests.support.command import Resx, refused
from tests.support.report_page import read_page
from tests.support.small_networks import small_network

FEW = ("--rounds", "1", "--duration", "0.1")
ONNX = ("--runtimes", "onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, of an untrained network."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    model, spec = small_network("resnet")
    write_run(folder, model, spec, configure("digits", "digits", {}))
    return folder


def test_forms_stand_side_by_side_and_nothing_is_published(resx: Resx, run: Path, tmp_path: Path) -> None:
    done = resx("compare", run, *ONNX, "--precisions", "fp16,fp32", *FEW, "-o", "out", "--json")

    found = require_described(done, "compare")
    half, whole = found["forms"]
    assert [half["name"], whole["name"]] == ["onnxruntime fp16", "onnxruntime fp32"]
    assert half["size_bytes"] < whole["size_bytes"]
    assert whole["flips"] is None, "the form that others are compared with"
    assert half["flips"]["num_flips"] >= 0
    assert whole["accuracy"]["of"] == found["images"]["num_images"] == 355
    evaluated = resx("evaluate", run, "--json").json
    assert whole["accuracy"]["right"] == evaluated["top1"]["right"]
    assert half["speed"]["p50_ms"]["median"] > 0
    assert half["speed"]["batch_size"] == 8
    assert found["front_by"] == "latency and accuracy"
    assert found["picked"] is None
    assert not (tmp_path / "model_repository").exists()
    assert json.loads((tmp_path / "out/compare.json").read_text()) == found
    assert len(read_page((tmp_path / "out/compare.html").read_text()).one("forms-chart").marks) == 2


def test_the_picked_form_is_published_verified_and_a_published_model_is_compared_again(
    resx: Resx, run: Path, tmp_path: Path
) -> None:
    done = resx("compare", run, *ONNX, "--precisions", "fp32", *FEW, "--pick", "latency<1000s,size<1GB", "--name", "m")

    assert done.code == 0, done.err
    assert "Published onnxruntime fp32 as m v1" in done.out
    assert done.out.endswith("Next: resx serve --detach\n")
    card = Repository(tmp_path / "model_repository").card("m", 1)
    assert (card.verified, card.precision, card.source.kind) == (True, "fp32", "run")
    again = resx("compare", "m", *ONNX, "--precisions", "fp32", *FEW)
    assert again.code == 0, again.err
    assert "accuracy %" in again.out
    assert again.out.endswith(f"Next: resx export {run}\n")


def test_a_form_that_fails_stands_with_its_reason_and_the_others_go_on(resx: Resx, tmp_path: Path) -> None:
    done = resx("compare", "resnet20", *ONNX, "--precisions", "fp32,int8", *FEW, "--data", "none")

    assert done.code == 0, done.err
    assert "✗ onnxruntime int8: " in done.out
    assert "--calibrate" in done.out
    assert "latency and size" in done.out
    assert "accuracy" not in done.out
    assert "random" in done.err
    assert not (tmp_path / "model_repository").exists()


def test_where_no_form_meets_the_condition_the_table_is_printed_and_the_exit_code_is_3(
    resx: Resx, run: Path, tmp_path: Path
) -> None:
    done = resx("compare", run, *ONNX, "--precisions", "fp32", *FEW, "--pick", "size<1kB", "--json")

    found = require_described(done, "compare", code=3)
    assert "no form meets it; the lowest size is" in found["error"]["message"]
    assert found["forms"][0]["speed"] is not None
    assert not list((tmp_path / "model_repository").glob("*/*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pick", "fast"), "--pick 'fast': not a condition"),
        (("--pick", "accuracy>90%", "--data", "none"), "add --data"),
        (("--pick", "size<1MB", "--name", "a b"), "a b"),
        (("--precisions", "fp8"), "--precisions fp8"),
        (("--runtimes", "onnxruntime", "--precisions", "bf16"), "no bfloat16 convolution"),
        (("--data", "nothing"), "nothing"),
        (("--duration", "0"), "--duration 0"),
        (("-o", "file"), "-o file: is a file"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_an_export(
    resx: Resx, run: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "file").write_text("")
    done = resx("compare", run, *options)
    refused(done, 2, words)
    assert "Exported" not in done.err


def test_what_is_no_model_is_refused_in_one_line(resx: Resx) -> None:
    refused(resx("compare", "resnet21"), 2, "resnet21")
    refused(resx("compare", "nowhere/run"), 2, "nowhere/run")
    refused(resx("compare", "missing.onnx"), 2, "missing.onnx")
