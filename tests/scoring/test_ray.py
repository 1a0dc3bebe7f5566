"""`resx predict --ray`: the same rows from several nodes, and when one of them dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from pyarrow import parquet

import resx
from resx.repository.versions import Repository
from tests.support.command import Finished
from tests.support.image_files import write_images

Resx = Callable[..., Finished]
NUM_NODES = 4
REPETITIONS = 3
"""Of each image, so that a run is not over before a node is killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Raylets:
    """A cluster whose nodes can be killed."""

    address: str
    commands: IO[str]
    answers: IO[str]

    def kill_one(self) -> None:
        self.commands.write("kill\n")
        self.commands.flush()
        said(self.answers, "killed")


def said(lines: IO[str], word: str) -> str:
    """Return what follows a word at the beginning of a line; Ray prints lines of its own before it."""
    for line in lines:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise AssertionError(f"the cluster ended before it said {word!r}")


@pytest.fixture(scope="module")
def raylets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    log = tmp_path_factory.mktemp("raylets") / "stderr"
    # What scores on the nodes is the package under test; Ray's sockets have to lie in a short path.
    path = os.pathsep.join([str(Path(resx.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "support" / "raylets.py"), str(NUM_NODES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Raylets(address=said(process.stdout, "address"), commands=process.stdin, answers=process.stdout)
        finally:
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 9,000 rows, one of them of a file that is not there."""
    folder = write_images(tmp_path_factory.mktemp("many"), 3000)
    paths = [*sorted(map(str, folder.glob("*/*.jpg"))), str(folder / "nowhere.jpg")][1:] * REPETITIONS
    (folder / "list.txt").write_text("\n".join(paths))
    return folder / "list.txt"


def test_a_cluster_gives_the_rows_of_one_process_and_loses_none_with_a_node(
    resx: Resx, published: Repository, many: Path, raylets: Raylets, tmp_path: Path
) -> None:
    again = ["tiny", str(many), "--repository", str(published.root), "--json"]
    here = resx("predict", *again, "-o", "here.parquet")
    out, parts = tmp_path / "there.parquet", tmp_path / "there.parquet.parts"

    with subprocess.Popen(
        [sys.executable, "-m", "resx", "predict", *again, "-o", str(out), "--ray", raylets.address],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        deadline = time.monotonic() + 180
        while run.poll() is None and len(list(parts.glob("part-*"))) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert run.poll() is None
        raylets.kill_one()
        left = 64 - len(list(parts.glob("part-*")))
        printed, errors = run.communicate(timeout=600)

    assert (here.code, run.returncode) == (0, 0), here.err + errors
    assert left > 0
    done = Finished(code=0, out=printed, err=errors)
    assert (done.json["rows"], done.json["scored_rows"], done.json["errors"]) == (9000, 9000, REPETITIONS)
    assert [line for line in errors.splitlines() if line.startswith("--ray")] == [
        f"--ray {raylets.address}: 1 of {NUM_NODES + 1} nodes were lost; the others took over their parts"
    ]
    local, distributed = parquet.read_table(tmp_path / "here.parquet"), parquet.read_table(out)
    assert distributed["path"].to_pylist() == many.read_text().splitlines()
    assert distributed.equals(local)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "here.parquet", out]


def test_a_run_that_was_begun_here_is_gone_on_with_on_a_cluster(
    resx: Resx, published: Repository, many: Path, raylets: Raylets, tmp_path: Path
) -> None:
    out, parts = tmp_path / "out.csv", tmp_path / "out.csv.parts"
    again = ["tiny", str(many), "-o", str(out), "--repository", str(published.root), "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "resx", "predict", *again],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        deadline = time.monotonic() + 120
        while run.poll() is None and len(list(parts.glob("part-*"))) < 40 and time.monotonic() < deadline:
            time.sleep(0.002)
        run.kill()
    kept = len(list(parts.glob("part-*")))

    done = resx("predict", *again, "--ray", raylets.address, "--ray-actors", "2", "--resume")

    assert done.code == 0, done.err
    assert done.json["resumed_parts"] == kept >= 40
    assert [line.partition(",")[0] for line in out.read_text().splitlines()[1:]] == many.read_text().splitlines()


def test_what_a_cluster_has_no_room_for_is_told(
    resx: Resx, published: Repository, many: Path, raylets: Raylets, tmp_path: Path
) -> None:
    for options, words in (
        (["--ray-cpus", "64"], "no node has 64 CPUs for an actor"),
        (["--device", "cuda"], "no node has 1 CPU and a GPU for an actor"),
    ):
        done = resx(
            "predict", "tiny", many, "-o", "out.csv", "--repository", published.root, "--ray", raylets.address, *options
        )
        assert done.code == 4, done.err
        assert words in done.err
        assert len(done.err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


def test_an_address_that_does_not_answer_is_one_line(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = resx(
            "predict", "tiny", images, "-o", "o.csv", "--repository", published.root, "--ray", f"127.0.0.1:{port}"
        )

    assert done.code == 4
    assert done.err == (
        f"error: --ray 127.0.0.1:{port}: no Ray cluster answers there; start one (`ray start --head`), or give the "
        "head's HOST:6379\n"
    )
    assert done.out == ""
    assert time.monotonic() - begun < 60  # Ray itself takes two minutes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray", "somewhere"], "--ray somewhere: give the head's HOST:6379, auto or local"),
        (["--ray", "ray://127.0.0.1:10001"], "does not run through Ray's client"),
        (["--ray", "auto", "--server", "127.0.0.1:1"], "both choose where to compute; give only one"),
        (["--ray", "auto", "--protocol", "http"], "apply to a server"),
        (["--ray", "auto", "--device", "tpu"], "--device tpu: give one of cpu, cuda"),
        (["--ray-actors", "2"], "add --ray"),
        (["--ray-cpus", "2"], "add --ray"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    resx: Resx, published: Repository, images: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    done = resx("predict", "tiny", images, "-o", "out.csv", "--repository", published.root, *options)

    assert done.code == 2, done.err
    assert words in done.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_without_ray_the_extra_is_named(published: Repository, images: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None; sys.argv = ['resx', *sys.argv[1:]]\n"
        "from resx.cli.main import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "tiny", str(images), "-o", "out.csv", "--repository",
         str(published.root), "--ray", "local"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 4
    assert "pip install 'resx[ray]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
