"""Parts hold every row exactly once, and a run goes on only with what was asked before."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pytest

from resx.errors import UsageError
from resx.files.fingerprint import FileFacts, fingerprint_of
from resx.scoring.parts import Parts, PartsManifest, open_parts, part_rows_for, parts_folder, require_fresh

SOURCE = fingerprint_of([("a.jpg", FileFacts(size=1, time="1"))])
OTHER = fingerprint_of([("a.jpg", FileFacts(size=2, time="1"))])
ASKED = PartsManifest(
    model="m",
    version=1,
    model_sha256="1" * 64,
    source="images",
    listing_sha256="2" * 64,
    source_sha256=SOURCE.sha256,
    num_rows=10,
    top=5,
    part_rows=4,
)


def begin(out: Path) -> None:
    with open_parts(out, ASKED, SOURCE) as parts:
        parts.write(0, pa.table({"path": ["x"] * 4}))


@pytest.mark.parametrize(("num_rows", "batch_size"), [(1, 1), (10, 4), (64, 1), (1000, 8), (100_000, 7), (65_537, 32)])
def test_the_parts_hold_every_row_once_in_whole_batches(num_rows: int, batch_size: int, tmp_path: Path) -> None:
    part_rows = part_rows_for(num_rows, batch_size)
    parts = Parts(folder=tmp_path, manifest=ASKED.model_copy(update={"num_rows": num_rows, "part_rows": part_rows}))
    bounds = [parts.bounds(number) for number in range(parts.num_parts)]

    assert part_rows % batch_size == 0
    assert bounds[0][0] == 0
    assert bounds[-1][1] == num_rows
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert all(0 < stop - start <= part_rows for start, stop in bounds)


def test_a_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    begin(tmp_path / "out.parquet")

    with open_parts(tmp_path / "out.parquet", ASKED, SOURCE) as parts:
        assert parts.missing() == [1, 2]
        assert parts.read(0).num_rows == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "n"), ("version", 2), ("model_sha256", "3" * 64), ("source", "others"), ("top", 1)],
)
def test_a_run_that_was_asked_for_something_else_is_not_gone_on_with(field: str, value: object, tmp_path: Path) -> None:
    begin(tmp_path / "out.parquet")

    with (
        pytest.raises(UsageError, match=f"was started with {field} "),
        open_parts(tmp_path / "out.parquet", ASKED.model_copy(update={field: value}), SOURCE),
    ):
        pass


def test_a_run_whose_source_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    begin(tmp_path / "out.parquet")
    changed = ASKED.model_copy(update={"source_sha256": OTHER.sha256})

    with (
        pytest.raises(UsageError, match="images: changed since the run started: 1 file changed"),
        open_parts(tmp_path / "out.parquet", changed, OTHER),
    ):
        pass


def test_an_output_that_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_bytes(b"finished")

    with pytest.raises(UsageError, match="exists, finished"):
        require_fresh(out, resume=False, overwrite=False)
    assert not require_fresh(out, resume=False, overwrite=True)
    assert out.read_bytes() == b"finished"


def test_an_unfinished_run_is_gone_on_with_or_begun_again_by_name_only(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    begin(out)

    with pytest.raises(UsageError, match="contains an unfinished run; --resume"):
        require_fresh(out, resume=False, overwrite=False)
    assert not require_fresh(out, resume=True, overwrite=False)
    assert (parts_folder(out) / "part-00000.parquet").is_file()
