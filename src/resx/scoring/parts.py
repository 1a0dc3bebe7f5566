"""What a run has finished: rows in numbered parts beside the output, until they become the output.

    OUT.parts/
        manifest.json         what was asked: a run that goes on must ask the same
        source.jsonl.gz       what the source's files were (`resx.files.fingerprint`)
        part-00007.parquet    the rows from 7 * part_rows on; whole or absent

A part is staged, synced and renamed, and its number says which rows it holds. So however often and whenever a run is
killed, every row is in exactly one part, or not yet there. The folder's lock keeps a second run out.

The manifest is written last and deleted first. So parts without it, beside an output, are what a finished run left; a
run that begins marks the folder until its manifest is there.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

from resx.errors import ResxError, UsageError, reason_of
from resx.files.fingerprint import Fingerprint, compare
from resx.files.json_faults import explain_fault
from resx.files.locks import exclusive, require_lockable
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import STAGING_PREFIX, remove_abandoned, write_atomic
from resx.values import FrozenModel

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST, SOURCE, BEGINNING = "manifest.json", "source.jsonl.gz", "beginning"
MERGED = "merged"
_NAMES = "|".join(map(re.escape, (MANIFEST, SOURCE, BEGINNING, MERGED)))
_OURS = re.compile(rf"part-\d+\.parquet|{_NAMES}|{re.escape(STAGING_PREFIX)}.*")
_MOST_ROWS, _PARTS = 1024, 64
_BUSY = "another `resx predict` is writing it; wait for it, or choose another -o"
_OF_SOURCE = ("listing_sha256", "source_sha256", "num_rows")


class PartsManifest(FrozenModel):
    """What was asked."""

    format: int = 1
    model: str
    version: int
    model_sha256: str
    source: str
    listing_sha256: str
    """Of the rows: names, sizes and their order."""
    source_sha256: str = ""
    """Of the source's fingerprint; empty in what an older resx wrote."""
    num_rows: int
    top: int
    part_rows: int
    """Whole batches, so that a row's batch, and with it the last bit of its numbers, does not depend on a restart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts of one run."""

    folder: Path
    manifest: PartsManifest

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
            raise ResxError(f"{path}: cannot be read ({error}); delete it, then continue with --resume") from error
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


def require_fresh(out: Path, *, resume: bool, overwrite: bool) -> bool:
    """Check, before anything is read or loaded, that the output may be begun or gone on with.

    A run that was killed just after it had published its output left its parts: they are deleted.

    Returns:
        True if the run that is to be gone on with was that one: nothing is left to do.

    Raises:
        UsageError: it, or an unfinished run, is there already and nobody said what to do; or there is no such folder.
    """
    folder = parts_folder(out)
    if resume and overwrite:
        raise UsageError("--resume, --overwrite: one continues a run, the other starts again; give only one")
    if out.is_dir() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{out if out.is_dir() else folder}: exists already; choose another -o")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: no folder {out.parent}; create it, or choose another -o")
    if folder.is_dir() and (strange := [path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)]):
        raise UsageError(f"{folder}: holds {strange[0]}, which `resx predict` did not write; move it elsewhere")
    if overwrite:
        return False
    if (folder / MANIFEST).is_file():
        if not resume:
            raise UsageError(f"{out}: contains an unfinished run; --resume continues it, --overwrite starts again")
    elif out.exists():
        if folder.is_dir() and _remove_left(out, folder) and resume:
            return True
        words = "is finished, so there is nothing to resume" if resume else "exists, finished: nothing to --resume"
        raise UsageError(f"{out}: {words}; --overwrite replaces it, or choose another -o")
    return False


@contextlib.contextmanager
def open_parts(
    out: Path,
    wanted: PartsManifest,
    source: Fingerprint | None = None,
    *,
    overwrite: bool = False,
    ignore_times: bool = False,
    on_note: Callable[[str], None] = lambda _text: None,
) -> Iterator[Parts]:
    """Give the parts of `wanted`, those that an earlier run finished among them, and lock them meanwhile.

    Args:
        out: the output.
        wanted: what is asked.
        source: what its files are now.
        overwrite: delete what an earlier run finished.
        ignore_times: take files for unchanged if only their modification times differ.
        on_note: told what could not be compared.

    Raises:
        UsageError: the earlier run was asked for something else, or another process is at it.
        ResxError: the folder cannot be written.
    """
    folder = parts_folder(out)
    require_lockable(folder)
    with writing(folder):
        folder.mkdir(exist_ok=True)
    try:
        with exclusive(folder, wait=False):
            remove_abandoned(folder)
            if overwrite or not (folder / MANIFEST).is_file():
                _begin(folder, wanted, source)
            yield Parts(folder=folder, manifest=_require_same(folder, wanted, source, ignore_times, on_note))
    except BlockingIOError as error:
        raise UsageError(f"{out}: {_BUSY}") from error


def remove_parts(parts: Parts) -> None:
    """Delete the parts; the output holds their rows."""
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
            f"{error.filename or path}: {reason_of(error)}; finished parts are kept: free some space or make the "
            "folder writable, then --resume"
        ) from error


def _begin(folder: Path, wanted: PartsManifest, source: Fingerprint | None) -> None:
    """Delete what is there and say what is asked."""
    with writing(folder):
        (folder / BEGINNING).touch()
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name != BEGINNING:
                path.unlink(missing_ok=True)
        if source is not None:
            write_atomic(folder / SOURCE, source.packed)
        write_atomic(folder / MANIFEST, wanted.model_dump_json(indent=2) + "\n")
        (folder / BEGINNING).unlink()


def _require_same(
    folder: Path, wanted: PartsManifest, source: Fingerprint | None, ignore_times: bool, on_note: Callable[[str], None]
) -> PartsManifest:
    """Return the manifest in the folder, which asks for the same.

    Raises:
        UsageError: it asks for something else, or the source is another one.
    """
    path, content = folder / MANIFEST, b""
    try:
        content = read_bounded(path, MAX_TEXT_BYTES)
        found = PartsManifest.model_validate_json(content)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); --overwrite starts again") from error
    except pydantic.ValidationError as error:
        raise UsageError(f"{path}: {explain_fault(error, content, 'start again with --overwrite')}") from error
    # The batch may have been tuned meanwhile; the parts that are there were cut by the earlier one.
    for field in PartsManifest.model_fields:
        if field not in _OF_SOURCE and field != "part_rows" and getattr(found, field) != getattr(wanted, field):
            raise UsageError(
                f"{folder}: was started with {_words(field, found)}, not {_words(field, wanted)}; repeat the same "
                "command, or start again with --overwrite"
            )
    if not found.source_sha256:
        on_note(f"{folder}: started by an older resx, so only the names and sizes of the source files are compared")
    elif found.source_sha256 != wanted.source_sha256 and source is not None:
        _require_same_source(folder, wanted, source, ignore_times=ignore_times)
    if (found.listing_sha256, found.num_rows) != (wanted.listing_sha256, wanted.num_rows):
        raise UsageError(
            f"{wanted.source}: its rows changed since the run started ({found.num_rows:,} then, {wanted.num_rows:,} "
            "now; names, sizes, order or --column differ); restore it, or start again with --overwrite"
        )
    return found


def _require_same_source(folder: Path, wanted: PartsManifest, source: Fingerprint, *, ignore_times: bool) -> None:
    difference = compare(folder / SOURCE, source, ignore_times=ignore_times)
    if difference:
        remedy = "restore it, or start again with --overwrite"
        if difference.only_times:
            remedy += "; if the contents are the same, as after a copy, add --ignore-times"
        raise UsageError(f"{wanted.source}: changed since the run started: {difference.words}; {remedy}")


def _remove_left(out: Path, folder: Path) -> bool:
    """Delete what a finished run left; return False if it was no such run that left the folder."""
    try:
        with exclusive(folder, wait=False):
            if (folder / BEGINNING).exists() or (folder / MANIFEST).exists():
                return False
            with writing(folder):
                shutil.rmtree(folder)
    except BlockingIOError as error:
        raise UsageError(f"{out}: {_BUSY}") from error
    except FileNotFoundError:
        pass  # whoever was deleting it has finished
    return True


def _words(field: str, manifest: PartsManifest) -> str:
    value = str(getattr(manifest, field))
    return f"{field} {value[:12] if field.endswith('sha256') else value}"
