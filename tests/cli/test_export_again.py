"""The same export again: from the cache, on purpose, from its card; and exports that are cut short."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from resx.card.card import read_card, schema_text
from resx.card.origin import SourceArguments
from resx.export import export_cache
from resx.export.request import ExportRequest, key_of, request_of, source_base
from tests.support.cards import card as some_card
from tests.support.command import Finished

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cached(tmp_path: Path) -> dict[str, str]:
    """An environment with a cache of exports of its own."""
    return {"RESX_CACHE": str(tmp_path / "cache"), "RESX_EXPORT_CACHE_GB": "1"}


def test_the_same_export_is_not_made_twice_and_its_bytes_come_again(
    tmp_path: Path, resx: Callable[..., Finished], cached: dict[str, str]
) -> None:
    first = resx("export", "resnet20", "--fp16", "--json", env=cached)
    assert (first.code, first.json["kept"]) == (0, False), first.err
    again = resx("export", "resnet20", "--fp16", "--json", env=cached)
    assert again.json == first.json | {"kept": True}
    assert [line.partition(" has random")[0] for line in again.err.splitlines()] == ["warning: resnet20"]

    other = resx("export", "resnet20", "--fp16", "--name", "other", "--json", env=cached)
    assert (other.json["kept"], other.json["name"]) == (True, "other")
    cards = [read_card(tmp_path / "model_repository" / name / "1") for name in ("resnet20", "other")]
    assert cards[0].files == cards[1].files
    assert cards[1].name == "other"

    served_otherwise = resx("export", "resnet20", "--fp16", "--threads", "1", "--json", env=cached)
    assert (served_otherwise.json["kept"], served_otherwise.json["version"]) == (True, 2)
    assert "intra_op_thread_count" in (tmp_path / "model_repository/resnet20/config.pbtxt").read_text()

    code = tmp_path / "model_repository/resnet20_preprocess/1/model.py"
    for _ in ("made", "renewed"):
        asked = resx("export", "resnet20", "--fp16", "--threads", "1", "--image-endpoint", "--json", env=cached)
        assert (asked.json["kept"], asked.json["version"]) == (True, 2), asked.err
        assert "class TritonPythonModel" in code.read_text()
        code.write_text("of an older version")

    card = tmp_path / "model_repository/other/1/card.json"
    jsonschema.validate(json.loads(card.read_text()), json.loads((ROOT / "docs/card.schema.json").read_text()))
    reproduced = resx("export", "--reproduce", card, "--json")
    assert reproduced.code == 0, reproduced.err
    assert reproduced.json["sha256_made"] == cards[1].files["model.onnx"]

    text = card.read_text().replace(cards[1].files["model.onnx"], "0" * 64)
    card.write_text(text.replace('"numpy": "', '"numpy": "0.'))
    differs = resx("export", "--reproduce", card.parent, "-q")
    assert (differs.code, "numpy 0." in differs.err, len(differs.err.splitlines())) == (3, True, 1)


def test_a_source_is_looked_for_beside_the_card_too(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    """Its path is recorded as it was typed, relative to the folder of the export."""
    assert resx("export", "resnet20", "--set", "classes=3", "-q").code == 0
    (tmp_path / "files").mkdir()
    (tmp_path / "model_repository/resnet20/1/model.onnx").rename(tmp_path / "files/net.onnx")
    done = resx("export", "files/net.onnx", "-q")
    assert done.code == 0, done.err
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    card = tmp_path / "model_repository/net/1/card.json"
    again = resx("export", "--reproduce", card, cwd=elsewhere)
    assert again.code == 0, again.err
    verified = resx("verify", "net", "--repository", tmp_path / "model_repository", "--json", cwd=elsewhere)
    assert verified.code == 0, verified.err
    assert "not found" not in verified.out
    (tmp_path / "files/net.onnx").unlink()
    gone = resx("export", "--reproduce", card, "-q", cwd=elsewhere)
    assert (gone.code, len(gone.err.splitlines())) == (2, 1)
    assert f"files/net.onnx: not found; looked in {elsewhere}, {card.parent}, " in gone.err


@pytest.mark.parametrize("place", [".", "m/net/1", "m", "elsewhere/m"])
def test_relative_paths_are_taken_from_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    version = tmp_path / "elsewhere/m/net/1" if place.startswith("elsewhere") else tmp_path / "m/net/1"
    version.mkdir(parents=True)
    base = tmp_path / place
    (base / "runs").mkdir(parents=True)
    (base / "w.pth").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here/w.pth").touch()  # the other one is not there, so this is another w.pth
    monkeypatch.chdir(tmp_path / "here")
    made = some_card()
    found = made.source.model_copy(update={"kind": "run"})
    source = SourceArguments(source="runs", weights="w.pth", seed=0, image_size=None, settings=())
    assert source_base(made.model_copy(update={"source": found}), source, version) == base
    code = source.model_copy(update={"source": "module:function"})
    assert source_base(made, code, version) == Path.cwd(), "code is imported from the working folder alone"


def test_force_makes_another_version(tmp_path: Path, resx: Callable[..., Finished], cached: dict[str, str]) -> None:
    for version, options in ((1, ()), (2, ("--force",))):
        done = resx("export", "resnet20", "--no-verify", "--json", *options, env=cached)
        assert (done.code, done.json["version"], done.json["kept"]) == (0, version, False), done.err


def test_reproduce_takes_nothing_but_the_card(resx: Callable[..., Finished]) -> None:
    done = resx("export", "resnet20", "--fp16", "--reproduce", "card.json")
    assert (done.code, done.err) == (
        2,
        "error: --reproduce card.json: the card determines everything; remove fp16, source\n",
    )
    assert resx("export", "-q").code == 2


def test_what_was_damaged_in_the_cache_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resx.card.card import write_card
    from resx.files.staging import sha256_of
    from tests.support.cards import card

    monkeypatch.setenv("RESX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESX_EXPORT_CACHE_GB", "1")
    version = tmp_path / "version"
    version.mkdir()
    (version / "model.onnx").write_bytes(b"weights" * 1000)
    made = card().model_copy(update={"files": {"model.onnx": sha256_of(version / "model.onnx")}})
    (version / "card.json").write_text(write_card(made))
    export_cache.keep("key", version)
    found = export_cache.find("key")
    assert found is not None
    assert found[1] == made
    (found[0] / "model.onnx").write_bytes(b"others")
    assert export_cache.find("key") is None
    assert not found[0].exists()


def test_the_least_used_exports_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESX_EXPORT_CACHE_GB", "0.000003")
    for number in range(4):
        version = tmp_path / str(number)
        version.mkdir()
        (version / "model.onnx").write_bytes(bytes(1000))
        export_cache.keep(f"key{number}", version)
        os.utime(tmp_path / "cache/exports" / f"key{number}", (number, number))
    assert sorted(path.name for path in (tmp_path / "cache/exports").iterdir()) == ["key1", "key2", "key3"]


def request(**changes: object) -> ExportRequest:
    source = SourceArguments(source="resnet20", weights="none", seed=0, image_size=None, settings=())
    return ExportRequest(source=source, target="cpu").model_copy(update=changes)


def test_the_key_follows_everything_that_decides_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, images = tmp_path / "w.safetensors", tmp_path / "images"
    weights.write_bytes(b"1")
    images.mkdir()
    source = request().source
    keys = [
        key_of(request()),
        key_of(request(precision="fp16")),
        key_of(request(target="gpu")),
        key_of(request(verify=False)),
        key_of(request(source=source.model_copy(update={"seed": 1}))),
        key_of(request(source=source.model_copy(update={"weights": str(weights)}))),
        key_of(request(calibrate=str(images))),
    ]
    weights.write_bytes(b"2")
    (images / "a.png").write_bytes(b"1")
    keys.append(key_of(request(source=source.model_copy(update={"weights": str(weights)}))))
    keys.append(key_of(request(calibrate=str(images))))
    (images / os.fsdecode(b"\xe9.png")).write_bytes(b"1")
    (images / "gone.png").symlink_to("nowhere")
    keys.append(key_of(request(calibrate=str(images))))
    (images / ".ipynb_checkpoints").mkdir()
    (images / ".ipynb_checkpoints" / "a.png").write_bytes(b"1")
    (images / "._a.png").write_bytes(b"1")
    assert key_of(request(calibrate=str(images))) == keys[-1]
    monkeypatch.setattr("resx.export.request.code_sha256", lambda: "another resx")
    keys.append(key_of(request()))
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key_of(request(source=source.model_copy(update={"source": "os:getcwd"}))) is None


def test_the_published_schema_is_the_cards() -> None:
    assert (ROOT / "docs/card.schema.json").read_text() == schema_text(), "make schemas"


def test_a_card_says_what_was_asked_for(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    done = resx(
        "export",
        "resnet20",
        "--int8",
        "--calibrate",
        "random",
        "--calibrate-images",
        "4",
        "--calibrate-method",
        "minmax",
        "--keep-fp32",
        "conv1",
        "--no-verify",
        "--max-batch",
        "3",
        "--seed",
        "5",
        "-q",
    )
    assert done.code == 0, done.err
    card = read_card(tmp_path / "model_repository/resnet20/1")
    assert card.source.arguments is not None
    asked = request_of(card, card.source.arguments)
    assert asked == request(
        source=request().source.model_copy(update={"seed": 5}),
        precision="int8",
        input_type="uint8",
        verify=False,
        calibrate="random",
        calibrate_images=4,
        calibrate_method="minmax",
        keep_fp32=("conv1",),
        max_batch_size=3,
    )


def test_a_disk_that_fills_in_the_middle_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    """No file may grow past 200 kB: the ONNX file's write fails half way, as on a full disk."""
    command = [sys.executable, "-m", "resx", "export", "resnet20", "--no-verify", "-q"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".staging")] == []


@pytest.mark.parametrize("after_s", [0.5, 4.0])
def test_a_killed_export_leaves_nothing_that_the_next_one_does_not_clean(
    tmp_path: Path, resx: Callable[..., Finished], after_s: float
) -> None:
    command = [sys.executable, "-m", "resx", "export", "resnet20", "--no-verify"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(iter(process.stderr))  # PyTorch is loaded; building and writing follow
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    repository = tmp_path / "model_repository"
    assert not repository.exists() or {path.name for path in repository.iterdir()} <= {"resnet20"}
    assert resx("export", "resnet20", "--no-verify", "-q").code == 0
    assert list(tmp_path.rglob(".staging*")) == []
