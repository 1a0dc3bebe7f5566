"""Runs that are stopped: what is finished stays, and every row is written exactly once."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from resx.repository.versions import Repository
from resx.scoring.in_process import find_model
from resx.scoring.parts import PartsManifest
from resx.scoring.sources.finding import find_source
from tests.support.command import Finished
from tests.support.image_files import write_images
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("many"), 3000)


def command(repository: Repository, source: Path, out: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "resx",
        "predict",
        "tiny",
        str(source),
        "-o",
        str(out),
        "--repository",
        str(repository.root),
        "--json",
        *options,
    ]


def finished_parts(out: Path) -> int:
    return len(list(out.with_name(f"{out.name}.parts").glob("part-*.parquet")))


def stopped(arguments: list[str], out: Path, parts: int, how: signal.Signals) -> tuple[int, str]:
    """Start a run, send it a signal once so many parts are there, and return its exit code and stderr."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and finished_parts(out) < parts and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(how)
    return process.wait(60), process.communicate()[1]


def test_rows_are_written_exactly_once_however_often_it_is_killed(
    resx: Resx, published: Repository, many: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    assert subprocess.run(command(published, many, whole), check=False).returncode == 0
    chance = random.Random(0)
    kills = 0
    for _ in range(4):
        before = finished_parts(out)
        code, _ = stopped(
            command(published, many, out, "--resume"), out, before + chance.randint(1, 12), signal.SIGKILL
        )
        kills += code == -signal.SIGKILL
        assert finished_parts(out) > before
        assert not out.exists()

    done = resx(*command(published, many, out, "--resume")[3:])

    assert kills == 4
    assert done.code == 0, done.err
    assert done.json["resumed_parts"] >= 4
    assert done.json["scored_rows"] < done.json["rows"] == 3000
    table = parquet.read_table(out)
    assert table.equals(parquet.read_table(whole))
    assert table["path"].to_pylist() == sorted(map(str, many.glob("*/*.jpg")))
    assert sorted(tmp_path.iterdir()) == [out, whole]


def test_ctrl_c_leaves_what_is_finished(resx: Resx, published: Repository, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"

    code, errors = stopped(command(published, many, out), out, 2, signal.SIGINT)

    assert code == 130
    assert errors.splitlines()[-2:] == [
        f"{out}: finished parts are kept; --resume continues",
        "error: interrupted",
    ]
    kept = finished_parts(out)
    assert kept >= 2
    done = resx(*command(published, many, out, "--resume")[3:])
    assert (done.code, done.json["resumed_parts"]) == (0, kept)
    assert len(out.read_text().splitlines()) == 3001


def test_a_gap_among_the_parts_is_filled(resx: Resx, published: Repository, many: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert subprocess.run(command(published, many, whole), check=False).returncode == 0
    stopped(command(published, many, out), out, 6, signal.SIGKILL)
    for number in (0, 3, 4):
        (tmp_path / "out.jsonl.parts" / f"part-{number:05}.parquet").unlink()

    done = resx(*command(published, many, out, "--resume")[3:])

    assert done.code == 0, done.err
    assert out.read_text() == whole.read_text()


@pytest.fixture
def stopped_run(published: Repository, images: Path, tmp_path: Path) -> Path:
    """The output of a run that was stopped before its first part."""
    model, source = find_model(published, "tiny", None).model, find_source(str(images), "")
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    manifest = PartsManifest(
        model="tiny",
        version=1,
        model_sha256=model.sha256,
        source=str(images),
        listing_sha256=source.sha256,
        num_rows=44,
        top=5,
        part_rows=4,
    )
    (parts / "manifest.json").write_text(manifest.model_dump_json())
    return tmp_path / "out.parquet"


def test_an_output_that_exists_is_kept_unless_told(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("precious")
    again = command(published, images, out)[3:]

    for options in ([], ["--resume"], ["--resume", "--overwrite"]):
        done = resx(*again, *options)
        assert done.code == 2
        assert "--overwrite" in done.err
        assert "--resume" in done.err or "resume" in done.err
        assert out.read_text() == "precious"
    assert resx(*again, "--overwrite").code == 0
    assert parquet.read_table(out).num_rows == 44


def test_an_unfinished_run_is_named_with_both_ways_on(
    resx: Resx, published: Repository, images: Path, stopped_run: Path
) -> None:
    done = resx(*command(published, images, stopped_run)[3:])

    assert done.code == 2
    assert "contains an unfinished run; --resume continues it, --overwrite starts again" in done.err


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("top", 4, "top 4, not top 5"),
        ("source", "elsewhere", "source elsewhere, not source"),
        ("model_sha256", "0123", "model_sha256 0123, not model_sha256"),
        ("version", 7, "version 7, not version 1"),
        ("of_a_newer_resx", 1, "field 'of_a_newer_resx': this resx"),
    ],
)
def test_a_run_that_was_asked_for_something_else_is_not_gone_on_with(
    resx: Resx, published: Repository, images: Path, stopped_run: Path, field: str, value: object, words: str
) -> None:
    manifest = stopped_run.with_name("out.parquet.parts") / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {field: value}))

    done = resx(*command(published, images, stopped_run, "--resume")[3:])

    assert done.code == 2, done.err
    assert words in done.err
    assert "--overwrite" in done.err


def test_resume_refuses_a_folder_that_changed(resx: Resx, published: Repository, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "growing", 2000)
    out = tmp_path / "out.parquet"
    code, _ = stopped(command(published, folder, out), out, 1, signal.SIGKILL)
    assert code == -signal.SIGKILL
    (folder / "0" / "00000.jpg").unlink()

    done = resx(*command(published, folder, out, "--resume")[3:])

    assert done.code == 2
    assert "changed since the run started: 1 file removed" in done.err
    assert "00000.jpg" in done.err


def test_a_full_disk_is_one_line_and_can_be_resumed(
    resx: Resx, published: Repository, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"

    def small_files() -> None:
        # What is written beyond it fails as a full disk does, without one to fill.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        command(published, many, out), preexec_fn=small_files, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "finished parts are kept" in done.stderr.splitlines()[-1]
    assert not out.exists()
    again = resx(*command(published, many, out, "--resume")[3:])
    assert again.code == 0, again.err
    assert again.json["scored_rows"] == 0
    assert len(out.read_text().splitlines()) == 3000


def test_two_runs_do_not_write_one_output(resx: Resx, published: Repository, images: Path, stopped_run: Path) -> None:
    from resx.files.locks import exclusive

    with exclusive(stopped_run.with_name("out.parquet.parts")):
        done = resx(*command(published, images, stopped_run, "--resume")[3:])

    assert done.code == 2
    assert "another `resx predict` is writing it" in done.err


def test_a_folder_of_somebody_elses_is_not_deleted(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "thesis.tex").write_text("years")

    done = resx(*command(published, images, tmp_path / "out.csv", "--overwrite")[3:])

    assert done.code == 2
    assert "thesis.tex" in done.err
    assert (tmp_path / "out.csv.parts" / "thesis.tex").exists()


def test_parts_without_a_manifest_are_nobodys(resx: Resx, published: Repository, images: Path, tmp_path: Path) -> None:
    """They are left when the removal of a finished run's parts is cut short."""
    repository = Repository(tmp_path / "other")
    publish_tiny(repository, "tiny", seed=5)
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    assert subprocess.run(command(repository, images, tmp_path / "x.parquet"), check=False).returncode == 0
    os.link(tmp_path / "x.parquet", parts / "part-00000.parquet")

    done = resx(*command(published, images, tmp_path / "out.parquet")[3:])

    assert (done.code, done.json["resumed_parts"]) == (0, 0), done.err
    assert not parts.exists()


@pytest.mark.parametrize("left", [["part-00000.parquet", "source.jsonl.gz"], [".staging-999999999-x", "merged"], []])
def test_what_a_kill_after_publishing_left_is_removed_and_resume_is_done(
    resx: Resx, published: Repository, images: Path, tmp_path: Path, left: list[str]
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("finished")
    parts = tmp_path / "out.csv.parts"
    parts.mkdir()
    for name in left:
        (parts / name).touch()

    done = resx(*command(published, images, out, "--resume")[3:])

    assert (done.code, done.json["finished_already"]) == (0, True), done.err
    assert not parts.exists()
    assert out.read_text() == "finished"


def test_without_resume_what_is_left_is_removed_and_the_output_is_kept(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("finished")
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "part-00000.parquet").touch()

    done = resx(*command(published, images, out)[3:])

    assert done.code == 2
    assert sorted(tmp_path.iterdir()) == [out]


def test_an_overwriting_run_that_was_killed_as_it_began_is_not_taken_for_finished(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("of another model")
    parts = tmp_path / "out.csv.parts"
    parts.mkdir()
    (parts / "beginning").touch()
    (parts / "part-00000.parquet").touch()

    assert resx(*command(published, images, out, "--resume")[3:]).code == 2
    done = resx(*command(published, images, out, "--overwrite")[3:])

    assert (done.code, done.json["rows"]) == (0, 44), done.err
    assert not parts.exists()
