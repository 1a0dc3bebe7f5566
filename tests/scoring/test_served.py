"""`resx predict --server`: the same rows through a running Triton."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from resx.repository.versions import Repository
from resx.serving.embedded.server_ports import Ports
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support.command import Finished
from tests.support.image_files import write_images
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]
pytestmark = pytest.mark.triton


@pytest.mark.parametrize(
    ("name", "protocol"), [("tiny", "grpc"), ("tiny", "http"), ("tiny_float", "grpc"), ("tiny_fp16", "http")]
)
def test_a_server_gives_the_rows_of_the_file(
    resx: Resx, triton: RunningTriton, images: Path, tmp_path: Path, name: str, protocol: str
) -> None:
    url = triton.url("http" if protocol == "http" else "grpc")

    here = resx("predict", name, images, "-o", "here.parquet", "--repository", triton.repository.root)
    there = resx("predict", name, images, "-o", "there.parquet", "--server", url, "--json")

    assert (here.code, there.code) == (0, 0), here.err + there.err
    assert (there.json["version"], there.json["rows"], there.json["errors"]) == (1, 44, 2)
    local, served = (parquet.read_table(tmp_path / f"{one}.parquet") for one in ("here", "there"))
    for column in ("path", "classes", "labels", "error"):
        assert served[column].equals(local[column]), column
    probabilities = [np.array([row for row in table["probabilities"].to_pylist() if row]) for table in (served, local)]
    np.testing.assert_allclose(*probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tinny"], "tinny"),
        (["tiny:7"], "`resx status` lists the models"),
        (["tiny", "--device", "cpu"], "remove one of the two"),
        (["tiny", "--protocol", "http"], "contradicts --protocol"),
    ],
)
def test_what_a_server_cannot_be_asked_is_refused(
    resx: Resx, triton: RunningTriton, images: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = resx("predict", arguments[0], images, "-o", "out.csv", "--server", triton.url(), *arguments[1:])

    assert done.code == 2, done.err
    assert words in done.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_server_want_one(resx: Resx, images: Path) -> None:
    done = resx("predict", "tiny", images, "-o", "out.csv", "--protocol", "http")

    assert done.code == 2
    assert "add --url" in done.err


def test_a_server_that_is_away_is_told_as_query_tells_it(resx: Resx, images: Path, tmp_path: Path) -> None:
    asked = resx("query", "tiny", images / "0" / "00000.jpg", "--url", "127.0.0.1:1")

    done = resx("predict", "tiny", images, "-o", "out.csv", "--server", "127.0.0.1:1")

    assert (done.code, asked.code) == (4, 4)
    assert done.err.splitlines()[-1] == asked.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_through_another_server_after_its_own_went_away(resx: Resx, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    folder, out = write_images(tmp_path / "many", 3000), tmp_path / "out.parquet"
    parts = tmp_path / "out.parquet.parts"
    again = ["predict", "tiny", str(folder), "-o", str(out), "--json", "--server"]
    state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "resx", *again, str(state.address("grpc")), "--retries", "0", "--in-flight", "1"],
            stderr=subprocess.PIPE, cwd=tmp_path, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while run.poll() is None and len(list(parts.glob("part-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        stop(repository)
    errors = run.communicate(timeout=600)[1].splitlines()

    assert run.returncode in (1, 4), errors
    assert errors[0] == f"{out}: finished parts are kept; --resume continues"
    assert errors[1].startswith("error: ")
    assert len(errors) == 2
    assert not out.exists()

    state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    try:
        done = resx(*again, str(state.address("http")), "--resume")
    finally:
        stop(repository)
    assert done.code == 0, done.err
    assert done.json["resumed_parts"] >= 2
    assert parquet.read_table(out)["path"].to_pylist() == sorted(map(str, folder.glob("*/*.jpg")))
