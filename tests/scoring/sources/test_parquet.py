"""Parquet's many ways to hold an image, and what remains of a damaged file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from resx.errors import UsageError
from resx.repository.interface import Interface
from resx.repository.versions import Repository
from resx.scoring.rows import prepare
from resx.scoring.sources.finding import find_source
from resx.scoring.sources.parquet_pages import pages_of
from resx.scoring.sources.source import Row
from tests.support.command import Finished
from tests.support.image_files import encoded

Resx = Callable[..., Finished]
IMAGE = encoded("BMP")
NAMED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
INTERFACE = Interface(
    input_name="image",
    input_type="UINT8",
    output_name="logits",
    num_classes=2,
    input_dims=(3, 16, 16),
    max_batch_size=4,
    parameters={},
)


def rows_of(path: Path, column: str = "", images_from: str = "") -> list[Row]:
    return list(find_source(str(path), column, images_from).rows())


def errors_of(rows: list[Row]) -> list[str]:
    return [prepare(row, INTERFACE).error or "" for row in rows]


def write(file: Path, /, **columns: object) -> Path:
    parquet.write_table(pa.table(columns), file)
    return file


BYTES = pa.array([IMAGE, IMAGE], pa.binary())
SHAPES = {
    "dictionary": BYTES.dictionary_encode(),
    "dictionary of large": pa.array([IMAGE, IMAGE], pa.large_binary()).dictionary_encode(),
    "fixed": pa.array([IMAGE, IMAGE], pa.binary(len(IMAGE))),
    "large": pa.array([IMAGE, IMAGE], pa.large_binary()),
    "view": pa.array([IMAGE, IMAGE], pa.binary_view()),
    "structure": pa.array([{"bytes": IMAGE, "path": "a"}, {"bytes": IMAGE, "path": None}], NAMED),
    "structure of dictionary": pa.StructArray.from_arrays([BYTES.dictionary_encode()], ["bytes"]),
    "structure with another name": pa.StructArray.from_arrays([BYTES], ["jpeg"]),
    "structure in a structure": pa.array([{"img": {"bytes": IMAGE}}] * 2),
    "three deep": pa.array([{"a": {"b": {"c": IMAGE}}}] * 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_column_of_bytes_of_any_kind_is_found_and_read(tmp_path: Path, shape: str) -> None:
    path = write(tmp_path / "t.parquet", number=[1, 2], x=SHAPES[shape])

    rows = rows_of(path)

    assert errors_of(rows) == ["", ""]
    assert [row.path for row in rows] == [f"{path}#0", f"{path}#1"]


@pytest.mark.parametrize("column", ["s.img", "s.img.bytes"])
def test_a_column_in_structures_is_named_with_dots(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "t.parquet", s=pa.array([{"img": {"bytes": IMAGE}, "thumb": {"bytes": b"no"}}]))

    assert errors_of(rows_of(path, column)) == [""]
    with pytest.raises(UsageError, match=r"bytes in s\.img, s\.thumb; choose one with --column"):
        rows_of(path)


def test_what_is_mostly_no_image_makes_no_doubt(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.parquet",
        id=pa.array([b"0123456789abcdef"], pa.binary(16)),
        image=pa.array([IMAGE], pa.binary()),
        meta=pa.array([{"thumb": b"no"}]),
    )

    assert errors_of(rows_of(path)) == [""]


@pytest.mark.parametrize("column", ["", "s", "s.bytes"])
def test_lists_of_images_are_refused_with_the_way_out(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "t.parquet", s=pa.array([[{"bytes": IMAGE}]]))

    with pytest.raises(UsageError, match="holds lists, but a row must be one image; write one row per image"):
        rows_of(path, column)


def test_a_column_of_text_says_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", name=["a"], image=pa.array([IMAGE], pa.binary()))

    with pytest.raises(UsageError, match="column 'name' holds string, not bytes; available: image"):
        rows_of(path, "name")
    with pytest.raises(UsageError, match="no column 'nmae' of bytes; available: image"):
        rows_of(path, "nmae")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_column_of_paths_of_any_text_names_the_rows(tmp_path: Path, kind: pa.DataType, as_dictionary: bool) -> None:
    if as_dictionary and kind == pa.string_view():
        pytest.skip("pyarrow writes no dictionary of views")
    names = pa.array(["a.png", "b.png"], kind)
    path = write(tmp_path / "t.parquet", image=BYTES, path=names.dictionary_encode() if as_dictionary else names)

    assert [row.path for row in rows_of(path)] == ["a.png", "b.png"]


def test_a_path_in_place_of_bytes_is_read_below_the_tables_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.bmp").write_bytes(IMAGE)
    monkeypatch.chdir(tmp_path / "d")  # relative to the table, wherever the command runs
    cells = [
        {"bytes": None, "path": "d/a.bmp"},
        {"bytes": None, "path": str(tmp_path / "d" / "a.bmp")},
        {"bytes": IMAGE, "path": "not there"},
        {"bytes": None, "path": "d/none.bmp"},
        {"bytes": None, "path": None},
    ]
    path = write(tmp_path / "t.parquet", image=pa.array(cells, NAMED))

    rows = rows_of(path)

    assert errors_of(rows) == ["", "", "", "No such file or directory", "this row has no image bytes"]
    assert [row.path for row in rows][:3] == ["d/a.bmp", str(tmp_path / "d" / "a.bmp"), f"{path}#2"]


def test_a_path_that_leads_out_of_the_folder_is_not_read_unless_the_user_names_it(tmp_path: Path) -> None:
    inside = tmp_path / "tables"
    inside.mkdir()
    (tmp_path / "a.bmp").write_bytes(IMAGE)
    (inside / "link.bmp").symlink_to(tmp_path / "a.bmp")
    names = ["../a.bmp", str(tmp_path / "a.bmp"), "link.bmp", f"file://{tmp_path}/a.bmp", "http://127.0.0.1:1/a.bmp"]
    names.append("a\0")
    path = write(inside / "t.parquet", image=pa.array([{"bytes": None, "path": name} for name in names], NAMED))

    refused, allowed = errors_of(rows_of(path)), errors_of(rows_of(path, images_from=str(tmp_path)))

    assert all("outside the folder" in error and "--images-from" in error for error in refused[:4])
    assert "URIs inside a table are not fetched" in refused[4]
    assert "NUL" in refused[5]
    assert allowed[1] == allowed[3] == ""


def test_files_that_a_table_names_belong_to_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(IMAGE)
    path = write(tmp_path / "t.parquet", image=pa.array([{"bytes": None, "path": "a.bmp"}], NAMED))
    before = find_source(str(path), "").fingerprint

    (tmp_path / "a.bmp").write_bytes(IMAGE + b"more")

    assert find_source(str(path), "").fingerprint != before


def damaged(path: Path, image: int, *, num_rows: int = 60, **options: object) -> Path:
    """Write images and turn all bits of one of them and of what lies around it, a page's header excepted."""
    cells = [IMAGE + number.to_bytes(4, "big") * 10 for number in range(num_rows)]
    columns = {"path": [f"{number}.bmp" for number in range(num_rows)], "image": pa.array(cells, pa.binary())}
    parquet.write_table(
        pa.table(columns),
        path,
        use_dictionary=False,
        data_page_size=8 * len(IMAGE),
        write_batch_size=2,
        write_statistics=False,
        **options,
    )
    content = bytearray(path.read_bytes())
    if options["compression"] == "none":
        place = content.index(image.to_bytes(4, "big") * 10) + 30
    else:
        place = len(content) * image // num_rows
    for byte in range(place, place + 20):
        content[byte] ^= 0xFF
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_damaged_page_costs_its_own_rows_alone(tmp_path: Path, compression: str, version: str) -> None:
    path = damaged(
        tmp_path / "t.parquet", 30, compression=compression, data_page_version=version, write_page_checksum=True
    )

    rows = rows_of(path)

    errors = errors_of(rows)
    lost = [number for number, error in enumerate(errors) if error]
    assert len(rows) == 60
    assert 0 < len(lost) < 30
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert f"rows {lost[0]} to {lost[-1]} are in a damaged page (" in errors[lost[0]]
    assert [row.path for number, row in enumerate(rows) if number not in lost] == [
        f"{number}.bmp" for number in range(60) if number not in lost
    ]
    assert [row.path for row in rows if row.path.endswith(f"#{lost[0]}")] == [f"{path}#{lost[0]}"]


def test_behind_a_damaged_header_the_next_whole_page_is_found(tmp_path: Path) -> None:
    path = damaged(tmp_path / "t.parquet", 30, compression="snappy", write_page_checksum=True)
    with path.open("rb") as file:
        chunk = parquet.read_metadata(path).row_group(0).column(1)
        pages = list(pages_of(file, chunk))
    content = bytearray(path.read_bytes())
    content[pages[1].start : pages[1].start + 20] = b"\xff" * 20
    path.write_bytes(content)

    lost = [number for number, error in enumerate(errors_of(rows_of(path))) if error]

    first = range(pages[0].num_rows, pages[0].num_rows + pages[1].num_rows)
    assert lost[: len(first)] == list(first)
    assert len(lost) == 2 * len(first)  # and the page that was damaged before


def test_a_part_that_begins_behind_the_damage_is_whole(tmp_path: Path) -> None:
    path = damaged(tmp_path / "t.parquet", 5, compression="snappy", write_page_checksum=True)

    rows = list(find_source(str(path), "").part(40, 50).rows())

    assert [row.path for row in rows] == [f"{number}.bmp" for number in range(40, 50)]
    assert errors_of(rows) == [""] * 10


def test_a_run_over_a_damaged_file_is_finished(resx: Resx, published: Repository, tmp_path: Path) -> None:
    path = damaged(tmp_path / "t.parquet", 30, compression="snappy", write_page_checksum=True)
    out = tmp_path / "out.jsonl"

    done = resx("predict", "tiny", path, "-o", out, "--repository", published.root, "--json")

    assert done.code == 0, done.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    errors = [row["error"] for row in rows if row["error"]]
    assert (len(rows), len(errors)) == (60, done.json["errors"])
    assert 0 < len(errors) < 30
    assert "damaged page" in errors[0]


def test_without_nulls_a_damaged_page_is_read_around_too(tmp_path: Path) -> None:
    cells = pa.array([IMAGE + bytes([number] * 10) for number in range(40)], pa.binary())
    schema = pa.schema([pa.field("image", pa.binary(), nullable=False)])
    path = tmp_path / "t.parquet"
    parquet.write_table(
        pa.table([cells], schema=schema),
        path,
        use_dictionary=False,
        data_page_size=4 * len(IMAGE),
        write_batch_size=1,
        compression="snappy",
        write_page_checksum=True,
        write_statistics=False,
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)

    lost = [number for number, error in enumerate(errors_of(rows_of(path))) if error]

    assert 0 < len(lost) < 20
