"""A source from anybody: what claims, or unpacks to, gigabytes is a row with an error or one line."""

from __future__ import annotations

import http.server
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from resx.errors import UsageError
from resx.repository.interface import Interface
from resx.repository.versions import Repository
from resx.scoring.rows import prepare
from resx.scoring.sources import finding
from resx.scoring.sources.finding import find_source
from resx.scoring.sources.parquet_files import open_table
from resx.scoring.sources.parquet_pages import DamagedPageError, pages_of
from tests.support.command import Finished
from tests.support.image_files import encoded

Resx = Callable[..., Finished]
MIB = 2**20
IMAGE = encoded("PNG")
INTERFACE = Interface(
    input_name="image",
    input_type="UINT8",
    output_name="logits",
    num_classes=2,
    input_dims=(3, 16, 16),
    max_batch_size=4,
    parameters={},
)


def errors_of(source: str | Path) -> list[str]:
    """Return each row's error, empty for those that can be scored."""
    return [prepare(row, INTERFACE).error or "" for row in find_source(str(source), "").rows()]


def table(path: Path, cells: list[bytes | None], **options: object) -> Path:
    reading = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    parquet.write_table(pa.table({"image": pa.array(cells, pa.binary())}), path, compression="zstd", **options)
    pa.set_memory_pool(reading)
    return path


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """What Arrow takes when it reads: `table` writes with another pool."""
    proxy, first = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(proxy)
    yield proxy
    pa.set_memory_pool(first)


@pytest.fixture(autouse=True)
def one_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of a mebibyte and a megapixel, so that bombs are small."""
    monkeypatch.setenv("RESX_MAX_FILE_MIB", "1")
    monkeypatch.setenv("RESX_MAX_MEGAPIXELS", "1")


def test_a_cell_above_the_limit_is_a_row_with_an_error_and_its_neighbours_are_scored(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [IMAGE, bytes(2 * MIB), IMAGE, None], use_dictionary=False)
    assert path.stat().st_size < 10_000
    good, large, also_good, empty = errors_of(path)
    assert (good, also_good, empty) == ("", "", "this row has no image bytes")
    assert large.startswith("file of 2,097,152 bytes: the limit is 1,048,576; make it smaller, or raise --max-file-mib")


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_page_that_unpacks_to_too_much_is_never_unpacked(
    tmp_path: Path, use_dictionary: bool, pool: pa.MemoryPool
) -> None:
    cells = [IMAGE, IMAGE, bytes(20 * MIB), IMAGE]
    path = table(tmp_path / "t.parquet", cells, use_dictionary=use_dictionary, row_group_size=2)
    assert path.stat().st_size < 100_000
    found = errors_of(path)
    assert found[:2] == ["", ""]
    assert all(error.startswith("a page of 20,9") and "the limit is 16,777,216" in error for error in found[2:])
    assert pool.max_memory() < 20 * MIB


def test_rows_that_share_one_value_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: pa.MemoryPool
) -> None:
    monkeypatch.setenv("RESX_MAX_FILE_MIB", "9")
    path = table(tmp_path / "t.parquet", [bytes(8 * MIB)] * 60, write_batch_size=1, dictionary_pagesize_limit=9 * MIB)
    assert path.stat().st_size < 100_000
    assert errors_of(path) == ["not an image; give a PNG, JPEG or WebP file"] * 60
    assert pool.max_memory() < 400 * MIB, "60 of them are 480 MiB"


def test_a_structure_gives_its_bytes_and_nothing_else_is_unpacked(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": IMAGE, "path": "x", "junk": ["a" * MIB] * 20}] * 2)
    parquet.write_table(pa.table({"image": cells}), tmp_path / "t.parquet", use_dictionary=False, compression="zstd")
    assert errors_of(tmp_path / "t.parquet") == ["", ""]


def test_more_rows_than_bytes_are_no_images(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [None] * 100_000)
    with pytest.raises(UsageError, match=r"t\.parquet: 100,000 rows in [\d,]+ bytes; each row must hold an image"):
        find_source(str(path), "")


def test_a_damaged_page_is_an_error_of_its_rows_in_one_line(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [IMAGE] * 50, use_dictionary=False)
    content = bytearray(path.read_bytes())
    frame = content.index(b"\x28\xb5\x2f\xfd")  # zstd's
    for start, stop in ((4, 8), (frame, frame + 4)):
        damaged = content.copy()
        damaged[start:stop] = b"\xff" * (stop - start)
        path.write_bytes(damaged)
        errors = errors_of(path)
        assert len(errors) == 50
        assert re.fullmatch(
            r"rows 0 to \d+ are in a damaged page \(.+\); copy the file again, or write it again", errors[0]
        )


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_page_sizes_are_those_that_the_footer_sums_up(tmp_path: Path, version: str, compression: str) -> None:
    cells = [bytes([number]) * (3000 + number) for number in range(200)]
    for use_dictionary in (True, False):
        parquet.write_table(
            pa.table({"image": pa.array(cells, pa.binary())}),
            tmp_path / "t.parquet",
            compression=compression,
            use_dictionary=use_dictionary,
            data_page_version=version,
            data_page_size=50_000,
            write_batch_size=5,
        )
        with open_table(str(tmp_path / "t.parquet")) as (opened, content):
            chunk = opened.metadata.row_group(0).column(0)
            largest = max(page.unpacked_bytes for page in pages_of(content, chunk))
            assert 0 < largest <= chunk.total_uncompressed_size
        assert (50_000 <= largest < 80_000) if not use_dictionary else largest > 50_000


def test_a_header_that_is_none_is_damage(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [IMAGE])
    with open_table(str(path)) as (opened, _), Path("/dev/zero").open("rb") as zeros, pytest.raises(DamagedPageError):
        list(pages_of(zeros, opened.metadata.row_group(0).column(0)))


def test_a_list_may_name_anything_and_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(bytes(MIB + 1))
    names = [
        "/dev/zero",
        f"{tmp_path}/pipe.png",
        "/dev/stdin",
        "/proc/self/mem",
        f"{tmp_path}/large.png",
        str(tmp_path),
    ]
    (tmp_path / "list.txt").write_text("\n".join(names))
    zero, pipe, _, _, large, folder = errors_of(tmp_path / "list.txt")
    assert zero == "a device, not a regular file; give a file"
    assert pipe == "a pipe, not a regular file; give a file"
    assert large.startswith("file of 1,048,577 bytes: the limit is 1,048,576")
    assert folder == "Is a directory"


@pytest.mark.parametrize("name", ["x.png", "x.txt", "x.parquet"])
def test_a_pipe_as_the_source_is_told_at_once(resx: Resx, published: Repository, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    done = resx("predict", "tiny", name, "-o", "o.jsonl", "--repository", published.root)
    assert done.code == (1 if name == "x.png" else 2)
    assert "a pipe, not a regular file" in done.err
    assert "Traceback" not in done.err


def test_a_list_has_bounds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("a\n" * 11)
    monkeypatch.setattr(finding, "MAX_LIST_LINES", 10)
    with pytest.raises(UsageError, match=r"list\.txt: a list of 11 lines: the limit is 10; split the list"):
        find_source(str(tmp_path / "list.txt"), "")
    monkeypatch.setattr(finding, "MAX_LIST_BYTES", 10)
    with pytest.raises(UsageError, match=r"list\.txt: file of 22 bytes: the limit is 10; split the list"):
        find_source(str(tmp_path / "list.txt"), "")


def test_a_web_server_that_sends_for_ever_is_read_up_to_the_limit(tmp_path: Path) -> None:
    sent = 0

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal sent
            self.send_response(200)
            self.end_headers()
            while True:
                try:
                    sent += self.wfile.write(bytes(65536))
                except OSError:
                    return

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "list.txt").write_text(f"http://127.0.0.1:{server.server_port}/x.png")
        try:
            (error,) = errors_of(tmp_path / "list.txt")
        finally:
            server.shutdown()
    assert error.startswith("file of more than 1,048,576 bytes, the limit")
    assert sent < 64 * MIB, "what sockets and buffers hold"


def test_an_object_in_a_bucket_or_an_archive_is_bounded(tmp_path: Path) -> None:
    import tarfile

    import fsspec

    fsspec.filesystem("memory").pipe("/bounds/x.png", bytes(MIB + 1))
    (tmp_path / "x.png").write_bytes(bytes(MIB + 1))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "x.png", "x.png")
    (tmp_path / "list.txt").write_text(f"tar://x.png::file://{tmp_path}/t.tar")
    for uri in ("memory://bounds/x.png", str(tmp_path / "list.txt")):
        (error,) = errors_of(uri)
        assert "1,048,576" in error
        assert "make it smaller, or raise --max-file-mib" in error


def test_the_options_raise_the_limits(resx: Resx, published: Repository, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "large.png").write_bytes(encoded("PNG", Image.new("1", (1500, 1000))))
    ask = ("predict", "tiny", "large.png", "-o", "o.jsonl", "--repository", published.root, "--overwrite")
    done = resx(*ask)
    assert (done.code, "image of 1500 x 1000 pixels: the limit is 1,000,000" in done.err) == (1, True)
    assert resx(*ask, "--max-megapixels", "2").code == 0
    wrong = resx(*ask, "--max-megapixels", "0")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
