"""What a run has finished: rows in numbered parts beside the output, until they become the output.

    OUT.parts/
        manifest.json         what was asked: a run that goes on must ask the same
        part-00007.parquet    the rows from 7 * part_rows on; whole or absent

A part is staged, synced and renamed, and its number says which rows it holds. So however often and whenever a run is
killed, every row is in exactly one part, or not yet there. The folder's lock keeps a second run out.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

from resx.errors import ResxError, UsageError
from resx.files import STAGING_PREFIX, exclusive, remove_abandoned, write_atomic
from resx.reading import MAX_TEXT_BYTES, read_bounded
from resx.zoo.spec import FrozenModel

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
MERGED = "merged"
_OURS = re.compile(rf"part-\d+\.parquet|{re.escape(MANIFEST)}|{MERGED}|{re.escape(STAGING_PREFIX)}.*")
_MOST_ROWS, _PARTS = 1024, 64


class Manifest(FrozenModel):
    """What was asked."""

    format: int = 1
    model: str
    version: int
    model_sha256: str
    source: str
    listing_sha256: str
    num_rows: int
    top: int
    part_rows: int
    """Whole batches, so that a row's batch, and with it the last bit of its numbers, does not depend on a restart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts of one run."""

    folder: Path
    manifest: Manifest

    @property
    def num_parts(self) -> int:
        """How many there will be."""
        return -(-self.manifest.num_rows // self.manifest.part_rows)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return a part's first row, and the one after its last."""
        start = number * self.manifest.part_rows
        return start, min(start + self.manifest.part_rows, self.manifest.num_rows)

    def size(self, number: int) -> int:
        """Return how many rows a part has."""
        start, stop = self.bounds(number)
        return stop - start

    def missing(self) -> list[int]:
        """Return the parts that are not finished."""
        return [number for number in range(self.num_parts) if not self._path(number).is_file()]

    def write(self, number: int, table: pa.Table) -> None:
        """Finish a part.

        Raises:
            ResxError: it cannot be written; what is finished stays.
        """
        from pyarrow import parquet

        assert table.num_rows == self.size(number), (number, table.num_rows)
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        with writing(self.folder):
            write_atomic(self._path(number), buffer.getvalue())

    def read(self, number: int) -> pa.Table:
        """Return a finished part.

        Raises:
            ResxError: its file is damaged.
        """
        import pyarrow as pa
        from pyarrow import parquet

        path = self._path(number)
        try:
            table = parquet.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise ResxError(f"{path}: cannot be read ({error}); delete it and go on with --resume") from error
        if table.num_rows != self.size(number):
            raise ResxError(f"{path}: {table.num_rows} rows, not {self.size(number)}; delete it, then --resume")
        return table

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.parquet"


def part_rows_for(num_rows: int, batch_size: int) -> int:
    """Return how many rows a part gets: a 64th of all, 1024 at most, in whole batches."""
    wanted = min(_MOST_ROWS, -(-num_rows // _PARTS))
    return -(-wanted // batch_size) * batch_size


def parts_folder(out: Path) -> Path:
    """Return where the parts of an output lie until it is whole."""
    return out.with_name(f"{out.name}.parts")


def require_fresh(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check, before anything is read or loaded, that the output may be begun or gone on with.

    Raises:
        UsageError: it, or an unfinished run, is there already and nobody said what to do; or there is no such folder.
    """
    folder = parts_folder(out)
    if resume and overwrite:
        raise UsageError("--resume, --overwrite: one goes on with a run, the other begins again; give one")
    if out.is_dir() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{out if out.is_dir() else folder}: is in the way; give another -o")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: no folder {out.parent}; make it, or give another -o")
    if folder.is_dir() and (strange := [path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)]):
        raise UsageError(f"{folder}: holds {strange[0]}, which `resx predict` did not write; move it away")
    if overwrite:
        return
    if (folder / MANIFEST).is_file():
        if not resume:
            raise UsageError(f"{out}: an unfinished run is there; --resume goes on with it, --overwrite begins again")
    elif out.exists():
        words = "is finished, so there is nothing to resume" if resume else "exists, finished: nothing to --resume"
        raise UsageError(f"{out}: {words}; --overwrite replaces it, or give another -o")


@contextlib.contextmanager
def open_parts(out: Path, wanted: Manifest, *, overwrite: bool) -> Iterator[Parts]:
    """Give the parts of `wanted`, those that an earlier run finished among them, and lock them meanwhile.

    Raises:
        UsageError: the earlier run was asked for something else, or another process is at it.
        ResxError: the folder cannot be written.
    """
    folder = parts_folder(out)
    with writing(folder):
        folder.mkdir(exist_ok=True)
    try:
        with exclusive(folder, wait=False):
            if overwrite:
                _clear(folder)
            remove_abandoned(folder)
            yield Parts(folder=folder, manifest=_agreed(folder, wanted))
    except BlockingIOError as error:
        raise UsageError(f"{out}: another `resx predict` is writing it; wait for that, or give another -o") from error


def remove_parts(parts: Parts) -> None:
    """Delete the parts; the output holds their rows."""
    # The manifest goes first: without it the rest is nobody's, and the next run deletes it.
    (parts.folder / MANIFEST).unlink()
    shutil.rmtree(parts.folder)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that something cannot be written, and how to go on.

    Raises:
        ResxError: an OSError came up.
    """
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise ResxError(
            f"{error.filename or path}: {(error.strerror or str(error)).lower()}; what is finished is kept: make room, "
            "or the folder writable, then --resume"
        ) from error


def _agreed(folder: Path, wanted: Manifest) -> Manifest:
    """Return the manifest that holds: the earlier run's if there is one, else `wanted`, written."""
    path = folder / MANIFEST
    if not path.is_file():
        with writing(folder):
            _clear(folder)
            write_atomic(path, wanted.model_dump_json(indent=2) + "\n")
        return wanted
    try:
        found = Manifest.model_validate_json(read_bounded(path, MAX_TEXT_BYTES))
    except (OSError, pydantic.ValidationError) as error:
        raise UsageError(f"{path}: cannot be understood; --overwrite begins again") from error
    # The batch may have been tuned meanwhile; the parts that are there were cut by the earlier one.
    same = wanted.model_copy(update={"part_rows": found.part_rows})
    if found != same:
        field = next(name for name in Manifest.model_fields if getattr(found, name) != getattr(same, name))
        raise UsageError(
            f"{folder}: was begun with {_words(field, found)}, not {_words(field, same)}; "
            "ask the same again, or --overwrite begins again"
        )
    return found


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)


def _words(field: str, manifest: Manifest) -> str:
    value = str(getattr(manifest, field))
    return f"{field} {value[:12] if field.endswith('sha256') else value}"
