"""`resx export --format`: what each format makes, where it goes, and options that do not fit it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.card.card import Card
from resx.gpus import find_gpus
from tests.support.command import Finished

FAST = ("--max-batch", "2")


def test_an_engine_of_rtx_goes_to_a_folder_of_its_own_and_never_over_another(
    resx: Callable[..., Finished], tmp_path: Path
) -> None:
    command = ("export", "resnet20", "--fp16", "--format", "tensorrt-rtx", "--compute-capability", "8.6,8.9", *FAST)
    done = resx(*command, "--json")
    assert done.code == 0, done.err
    engine = done.json["engine"]
    assert done.json["file"] == "engines/resnet20/model.engine"
    assert done.json["version"] is None
    assert engine["compute_capabilities"] == ["8.6", "8.9"]
    assert engine["network_precisions"] == {"HALF": 20}
    assert (engine["batch_min"], engine["batch_opt"], engine["batch_max"]) == (1, 2, 2)
    assert not (tmp_path / "model_repository").exists()

    again = resx(*command)
    assert again.code == 2
    assert again.err == "error: engines/resnet20: exists already; choose another folder with -o, or move it elsewhere\n"


def test_an_engine_of_rtx_is_published_for_the_embedded_server_which_says_what_it_lacks_for_it(
    resx: Callable[..., Finished], tmp_path: Path
) -> None:
    build = ("export", "resnet20", "--format", "tensorrt-rtx", "--publish", *FAST, "--json")
    done = resx(*build, "--name", "rtx")
    assert done.code == 0, done.err
    assert (done.json["file"], done.json["version"]) == ("model_repository/rtx/1/model.engine", 1)
    config = (tmp_path / "model_repository" / "rtx" / "config.pbtxt").read_text()
    assert 'backend: "tensorrt_rtx"' in config
    assert "kind: KIND_GPU" in config
    if find_gpus().count:
        pytest.skip("there is a GPU: the rest would serve it")

    for arguments in (("--detach",), ("--load", "rtx"), ("--device", "cpu", "--detach"), ("--native", "--detach")):
        served = resx("serve", *arguments)
        assert (served.code, len(served.err.splitlines())) == (4, 1), served.err
        assert served.err.startswith("error: rtx: an engine of TensorRT for RTX needs an NVIDIA GPU and the package")
    other = resx("export", "resnet20", *FAST, "--name", "rtx")
    assert (other.code, "are engines of TensorRT for RTX, this is an ONNX file" in other.err) == (2, True)


def test_a_script_comes_with_the_verified_file_and_its_card_and_needs_no_gpu(
    resx: Callable[..., Finished], tmp_path: Path
) -> None:
    done = resx("export", "resnet20", "--format", "tensorrt", "--batch-max", "4", "--emit-script", "build/r.sh")
    assert done.code == 0, done.err
    assert "on the GPU's machine run: bash build/r.sh; then" in done.out
    assert "Next:" not in done.out, "what comes next is no command for this machine"
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == [
        "r.sh",
        "resnet20.card.json",
        "resnet20.onnx",
    ]
    card = Card.model_validate_json((tmp_path / "build" / "resnet20.card.json").read_bytes())
    script = (tmp_path / "build" / "r.sh").read_text()
    assert card.verified
    assert card.files["model.onnx"] in script
    assert "--maxShapes=image:4x3x32x32" in script


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "plan"), "--format plan: give one of onnx, tensorrt, tensorrt-rtx"),
        (
            ("--tf32",),
            "--tf32: does not apply to --format onnx; remove it, or use --format tensorrt or tensorrt-rtx",
        ),
        (("-o", "x"), "--output: does not apply to --format onnx"),
        (("--format", "tensorrt", "--compute-capability", "8.6"), "--compute-capability: does not apply"),
        (("--format", "tensorrt", "--batch-min", "2"), "Triton sends single images too"),
        (("--format", "tensorrt", "--publish"), "--publish: does not apply to --format tensorrt"),
        (("--publish",), "--publish: does not apply to --format onnx"),
        (("--format", "tensorrt-rtx", "--publish", "-o", "x"), "--publish: writes to the repository; remove"),
        (("--format", "tensorrt-rtx", "--publish", "--batch-min", "2"), "Triton sends single images too"),
        (("--format", "tensorrt-rtx", "--timing-cache", "x"), "--timing-cache: does not apply"),
        (("--format", "tensorrt-rtx", "--emit-script", "x"), "--emit-script: does not apply"),
        (("--format", "tensorrt-rtx", "--compute-capability", "ampere"), "'ampere': give numbers such as 8.6"),
        (("--format", "tensorrt-rtx", "--compute-capability", "3.5"), "builds for 7.5"),
        (("--format", "tensorrt-rtx", "--batch-opt", "16"), "min <= opt <= max"),
    ],
)
def test_an_option_that_does_not_fit_the_format_is_refused_before_the_work(
    options: tuple[str, ...], message: str, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    done = resx("export", "resnet20", *options)
    assert done.code == 2
    assert message in done.err.splitlines()[-1]
    assert "Built resnet20" not in done.err
    assert not list(tmp_path.iterdir())


def test_a_name_that_could_not_be_a_file_never_gets_into_a_script(resx: Callable[..., Finished]) -> None:
    done = resx("export", "resnet20", "--format", "tensorrt", "--emit-script", "x.sh", "--name", "a;b")
    assert (done.code, done.err.startswith("error: name 'a;b':")) == (2, True)


def test_an_onnx_export_says_that_it_is_one(resx: Callable[..., Finished], tmp_path: Path) -> None:
    done = resx("export", "resnet20", "--json", *FAST)
    assert (done.json["format"], done.json["engine"], done.json["version"]) == ("onnx", None, 1)
    written = json.loads((tmp_path / "model_repository" / "resnet20" / "1" / "card.json").read_text())
    assert written["engine"] is None
