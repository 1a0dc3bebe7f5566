"""What a shell proposes, asked as its own scripts ask: variants, runs, models, versions and choices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resx.cli.completion import answer, choices_of

RESX = """
import sys
sys.argv = ["resx"]
from resx.cli.main import main
try:
    main()
finally:
    print([name for name in ("torch", "onnxruntime", "tritonclient", "matplotlib") if name in sys.modules],
          file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in ("digits", "dense"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "spec.json").write_text("{}")
    (tmp_path / "runs" / "unfinished").mkdir()
    for model in ("photos", "photos_image", "photos_preprocess", "small"):
        for version in ("1", "12", "2"):
            (tmp_path / "model_repository" / model / version).mkdir(parents=True)
        (tmp_path / "model_repository" / model / "config.pbtxt").write_text("")
    (tmp_path / "model_repository" / "no_model").mkdir()
    return tmp_path


def ask(folder: Path, **environment: str) -> list[str]:
    """Return the lines that a shell gets; hold the command to no heavy import and no words on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", RESX],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "[]\n"
    return done.stdout.splitlines()


def in_bash(folder: Path, *words: str) -> list[str]:
    """Ask as bash does, which has a word for each of `NAME`, `:` and `1`."""
    return ask(
        folder, _RESX_COMPLETE="complete_bash", COMP_WORDS="\n".join(["resx", *words]), COMP_CWORD=str(len(words))
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "resnet10"), ["resnet101"]),
        (("export", "runs/d"), ["runs/dense", "runs/digits"]),
        (("lesion", ""), ["runs/dense", "runs/digits"]),
        (("shrink", "runs/di"), ["runs/digits"]),
        (("deploy", ""), ["photos", "small"]),
        (("query", "ph"), ["photos"]),
        (("serve", "--load", "s"), ["small"]),
        (("bench", "photos", ":", ""), ["1", "2", "12"]),
        (("bench", "photos", ":", "1"), ["1", "12"]),
        (("predict", "photos:"), ["photos:1", "photos:2", "photos:12"]),
        (("plan", "small", ":", ""), ["1", "2", "12"]),
        (("deploy", "photos", "--version", ""), ["1", "2", "12"]),
        (("verify", "small", "--version", "1"), ["1", "12"]),
        (("export", "resnet50", "--format", ""), ["onnx", "tensorrt", "tensorrt-rtx"]),
        (("export", "resnet50", "--format", "=", "tensorrt-"), ["tensorrt-rtx"]),
        (("serve", "--device", "g"), ["gpu"]),
        (("bench", "m", "--protocol", ""), ["http", "grpc"]),
        (("tune", "m", "--precisions", "fp32,b"), ["fp32,bf16"]),
        (("bench", "m", "--conc"), ["--concurrency"]),
        (("depl",), ["deploy"]),
        (("train", "resnet20", "--l"), ["--learning-rate", "--label-smoothing"]),
    ],
)
def test_bash_gets_what_fits(folder: Path, words: tuple[str, ...], expected: list[str]) -> None:
    found = in_bash(folder, *words)

    assert [word for word in found if word in expected] == expected
    assert all(word.startswith(words[-1].rpartition(":")[2]) or ":" in word for word in found)
    assert not {"photos_image", "photos_preprocess", "no_model", "runs/unfinished", "--lr"} & {*found}


def test_a_repository_that_is_named_is_the_one_that_is_read(folder: Path) -> None:
    (folder / "model_repository").rename(folder / "other")

    assert in_bash(folder, "deploy", "") == []
    assert in_bash(folder, "deploy", "--repository", "other", "") == ["photos", "small"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"_RESX_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "resx deploy ph"}, '"photos"'),
        ({"_RESX_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "resx bench photos:12"}, r'"photos\\:12"'),
        (
            {
                "_RESX_COMPLETE": "complete_fish",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                "_TYPER_COMPLETE_ARGS": "resx bench photos:1",
            },
            "photos:12",
        ),
    ],
)
def test_zsh_and_fish_get_what_fits(folder: Path, environment: dict[str, str], expected: str) -> None:
    assert expected in "\n".join(ask(folder, **environment))


@pytest.mark.parametrize(
    "environment",
    [
        {"_RESX_COMPLETE": "complete_bash"},
        {"_RESX_COMPLETE": "complete_nothing"},
        {"_RESX_COMPLETE": ""},
        {"_RESX_COMPLETE": "complete_bash", "COMP_WORDS": "resx 'deploy", "COMP_CWORD": "x"},
        {"_RESX_COMPLETE": "complete_bash", "COMP_WORDS": "resx\n:\n:\n", "COMP_CWORD": "9"},
        {"_RESX_COMPLETE": "complete_bash", "COMP_WORDS": "resx\ntrain\n--lr\nx\n", "COMP_CWORD": "4"},
        {"_RESX_COMPLETE": "complete_bash", "COMP_WORDS": "resx\nno-command\n", "COMP_CWORD": "2"},
    ],
)
def test_a_line_that_nothing_can_be_made_of_gets_no_traceback(folder: Path, environment: dict[str, str]) -> None:
    ask(folder, **environment)


def test_a_folder_that_cannot_be_read_proposes_nothing(folder: Path) -> None:
    shutil.rmtree(folder / "model_repository")
    (folder / "model_repository").write_text("no folder")

    assert in_bash(folder, "deploy", "") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_bash_completes_a_version_behind_its_colon(folder: Path) -> None:
    resx = Path(sys.executable).with_name("resx")
    if not resx.is_file():
        pytest.skip("resx is not installed as a command")
    script = (
        f'export PATH="{resx.parent}:$PATH"\n'
        'eval "$(_RESX_COMPLETE=source_bash resx)"\n'
        "COMP_WORDS=(resx bench photos : 1); COMP_CWORD=4\n"
        '_resx_completion resx\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines(), done.stderr) == (["1", "12"], "")


def test_choices_are_read_off_a_metavar() -> None:
    assert choices_of("[cpu|gpu]") == ("cpu", "gpu")
    assert choices_of("[fp32|fp16],...") == ("fp32", "fp16")
    assert choices_of("NAME|A.onnx") == choices_of("[B.onnx]|") == choices_of(None) == ()


def test_an_error_of_any_kind_proposes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        sys.stdout.write("half")
        raise ZeroDivisionError

    assert answer(fail, {"_RESX_COMPLETE": "complete_zsh"}) == 1
    assert capsys.readouterr() == ("", "")
