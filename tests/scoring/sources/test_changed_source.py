"""A source that changed is not gone on with: another one is refused, with what differs."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from resx.errors import ResxError
from resx.files.fingerprint import Fingerprint
from resx.repository.interface import Interface
from resx.repository.versions import Repository
from resx.scoring.in_process import find_model
from resx.scoring.parts import MANIFEST, SOURCE, PartsManifest
from resx.scoring.rows import prepare
from resx.scoring.sources.finding import find_source
from tests.support.command import Finished
from tests.support.image_files import encoded, write_images

Resx = Callable[..., Finished]
Begin = Callable[[str], Path]
INTERFACE = Interface(
    input_name="image",
    input_type="UINT8",
    output_name="logits",
    num_classes=2,
    input_dims=(3, 16, 16),
    max_batch_size=4,
    parameters={},
)


@pytest.fixture
def begin(published: Repository, tmp_path: Path) -> Begin:
    """Return what leaves a run of a source as a kill before its first part would."""

    def begun(source: str) -> Path:
        model, found = find_model(published, "tiny", None).model, find_source(source, "")
        assert isinstance(found.fingerprint, Fingerprint)
        parts = tmp_path / "out.jsonl.parts"
        parts.mkdir()
        manifest = PartsManifest(
            model="tiny",
            version=1,
            model_sha256=model.sha256,
            source=source,
            listing_sha256=found.sha256,
            source_sha256=found.fingerprint.sha256,
            num_rows=found.num_rows,
            top=5,
            part_rows=4,
        )
        (parts / SOURCE).write_bytes(found.fingerprint.packed)
        (parts / MANIFEST).write_text(manifest.model_dump_json())
        return tmp_path / "out.jsonl"

    return begun


def resumed(resx: Resx, published: Repository, source: str, out: Path, *options: str) -> Finished:
    return resx("predict", "tiny", source, "-o", out, "--repository", published.root, "--resume", *options)


def rewrite(path: Path) -> None:
    """Write other bytes of the same number; the time is later, whatever the file system's clock ticks like."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def write_table(path: Path, cells: list[bytes]) -> Path:
    columns = {"path": [f"{number}.png" for number in range(len(cells))], "image": pa.array(cells, pa.binary())}
    parquet.write_table(pa.table(columns), path, row_group_size=2, use_dictionary=False, compression="none")
    return path


def test_a_file_of_a_folder_that_was_written_again_at_its_size_is_refused(
    resx: Resx, published: Repository, begin: Begin, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "photos", 8)
    out = begin(str(folder))
    path = folder / "0" / "00000.jpg"
    about = path.stat()
    content = path.read_bytes()
    rewrite(path)

    done = resumed(resx, published, str(folder), out)

    assert done.code == 2
    assert f"changed since the run started: 1 file with another modification time ({path})" in done.err
    assert "--overwrite" in done.err
    assert "--ignore-times" in done.err
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert resumed(resx, published, str(folder), out).code == 0


def test_a_list_is_compared_with_the_files_that_it_names(
    resx: Resx, published: Repository, begin: Begin, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "photos", 4)
    names = sorted(map(str, folder.rglob("*.jpg")))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(names))
    out = begin(str(listed))
    rewrite(Path(names[2]))

    done = resumed(resx, published, str(listed), out)

    assert (done.code, names[2] in done.err) == (2, True)


def test_the_order_of_a_list_counts(resx: Resx, published: Repository, begin: Begin, tmp_path: Path) -> None:
    names = sorted(map(str, write_images(tmp_path / "photos", 4).rglob("*.jpg")))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(names))
    out = begin(str(listed))
    listed.write_text("\n".join(reversed(names)))

    done = resumed(resx, published, str(listed), out)

    assert done.code == 2
    assert "its rows changed since the run started (4 then, 4 now" in done.err


def test_a_table_whose_rows_were_turned_round_at_equal_size_is_refused(
    resx: Resx, published: Repository, begin: Begin, tmp_path: Path
) -> None:
    cells = [encoded("BMP", np.full((8, 8, 3), value, np.uint8)) for value in (0, 90, 180)]
    table = write_table(tmp_path / "t.parquet", cells)
    about = table.stat()
    out = begin(str(table))
    write_table(table, cells[::-1])
    assert table.stat().st_size == about.st_size
    os.utime(table, ns=(about.st_atime_ns, about.st_mtime_ns))  # the footer has the columns' statistics

    done = resumed(resx, published, str(table), out)

    assert done.code == 2
    assert f"1 file changed ({table})" in done.err
    assert "--ignore-times" not in done.err


def test_other_times_alone_can_be_ignored(resx: Resx, published: Repository, begin: Begin, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 8)
    out = begin(str(folder))
    for path in folder.rglob("*.jpg"):
        os.utime(path, ns=(0, 1))

    assert resumed(resx, published, str(folder), out).code == 2
    assert resumed(resx, published, str(folder), out, "--ignore-times").code == 0


def test_what_an_older_resx_began_is_gone_on_with_and_said(
    resx: Resx, published: Repository, begin: Begin, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "photos", 8)
    out = begin(str(folder))
    manifest = tmp_path / "out.jsonl.parts" / MANIFEST
    old = json.loads(manifest.read_text())
    del old["source_sha256"]
    manifest.write_text(json.dumps(old))
    (tmp_path / "out.jsonl.parts" / SOURCE).unlink()

    done = resumed(resx, published, str(folder), out)

    assert done.code == 0, done.err
    assert "started by an older resx, so only the names and sizes" in done.err


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL that it is served at."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_list_of_urls_is_compared_with_what_the_server_says(website: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = website
    (folder / "a.png").write_bytes(encoded("PNG"))
    listed = tmp_path / "list.txt"
    listed.write_text(f"{url}/a.png\n")
    first = find_source(str(listed), "").fingerprint
    again = find_source(str(listed), "").fingerprint
    os.utime(folder / "a.png", (10**9, 10**9))  # HTTP's times have seconds

    now = find_source(str(listed), "").fingerprint

    assert first == again
    assert first != now


def test_an_image_that_changes_while_the_run_is_at_it_is_a_row_with_an_error(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 3)
    source = find_source(str(folder), "")
    gone, other = folder / "0" / "00000.jpg", folder / "0" / "00002.jpg"
    gone.unlink()
    rewrite(other)

    errors = {Path(row.path).name: prepare(row, INTERFACE).error for row in source.part(0, 3).rows()}

    assert errors == {
        "00000.jpg": "No such file or directory",
        "00002.jpg": "changed after this run started",
        "00001.jpg": None,
    }


def test_a_table_that_changes_while_the_run_is_at_it_ends_the_run(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", [encoded("BMP")] * 200)
    source = find_source(str(table), "")
    rows = source.rows()
    next(rows)
    os.utime(table, ns=(0, 1))

    with pytest.raises(ResxError, match=r"t\.parquet: changed after this run started; finished parts are kept"):
        list(rows)
    with pytest.raises(ResxError, match="changed after this run started"):
        list(source.part(10, 20).rows())


def test_a_few_kills_lose_and_double_nothing_and_changed_sources_are_refused(published: Repository) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [
            sys.executable, root / "benchmarks" / "kills_predict.py", "--kills", "3", "--images", "240", "--model",
            "tiny", "--repository", published.root,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["kills"], counts["wrong"]) == (3, 0)
    assert counts["refused"] == counts["changed"]
