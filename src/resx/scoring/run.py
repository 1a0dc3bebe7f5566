"""One run of `resx predict`: list, score what no earlier run finished, merge."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resx.errors import MissingCapability
from resx.machine import usable_cores
from resx.scoring.in_process import Device, ModelFile, Sessions
from resx.scoring.output import merge
from resx.scoring.parts import Parts, PartsManifest, open_parts, part_rows_for, remove_parts
from resx.scoring.rows import Model
from resx.scoring.sources.source import ImageSource
from resx.scoring.sources.uri import without_secrets
from resx.scoring.stream import score_rows, workers_for
from resx.text import printable

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedParts:
    """What is to be written."""

    source: ImageSource
    source_text: str
    out: Path
    top: int = 5
    """Classes for each image; all of them where the model has fewer."""
    overwrite: bool = False
    ignore_times: bool = False
    """Go on also if files of the source have other modification times."""
    csv_safe: bool = False
    """Write a CSV in which a spreadsheet finds no formula."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What a run did."""

    rows: int
    errors: int
    """Number of rows with an error."""
    first_error: str
    """Path and reason of the first of them; empty where there is none."""
    scored_rows: int
    """Rows scored by this command; the others were scored before."""
    resumed_parts: int
    seconds: float
    """Of scoring, with the opening of the model and without the listing of the source."""

    @property
    def images_per_s(self) -> float:
        """Of this run."""
        return self.scored_rows / self.seconds if self.seconds else 0.0


class ScoringEngine(Protocol):
    """Something that scores parts: this process, a server, a cluster."""

    @property
    def model(self) -> Model:
        """What it asks."""

    def scored_parts(self, source: ImageSource, parts: Parts, numbers: list[int], on_rows: OnRows) -> Scored:
        """Give each of the parts once, in any order, and tell how many rows more are scored."""


OnRows = Callable[[int], None]
Scored = Iterator[tuple[int, "pa.Table"]]


def predict(
    engine: ScoringEngine,
    wanted: WantedParts,
    on_progress: Callable[[int, int], None],
    on_note: Callable[[str], None] = lambda _text: None,
) -> Predicted:
    """Write a row for each image of the source; go on where an earlier run of the same request stopped.

    Args:
        engine: scores.
        wanted: what is to be written.
        on_progress: told how many rows of how many are there, first what was there before.
        on_note: told what could not be compared with an earlier run.

    Raises:
        UsageError: an earlier run was asked for something else, or the source has changed since.
        ResxError: the model, the server, the cluster or the disk fails. What is finished stays, and so it does
            after an interrupt or a kill.
    """
    model, source, num_rows = engine.model, wanted.source.fingerprint, wanted.source.num_rows
    manifest = PartsManifest(
        model=model.name,
        version=model.version,
        model_sha256=model.sha256,
        source=printable(without_secrets(wanted.source_text)),
        listing_sha256=wanted.source.sha256,
        num_rows=num_rows,
        source_sha256="" if source is None else source.sha256,
        top=min(wanted.top, model.interface.num_classes),
        part_rows=part_rows_for(num_rows, model.batch_size),
    )
    with open_parts(
        wanted.out, manifest, source, overwrite=wanted.overwrite, ignore_times=wanted.ignore_times, on_note=on_note
    ) as parts:
        missing = parts.missing()
        done = before = num_rows - sum(map(parts.size, missing))
        on_progress(done, num_rows)

        def on_rows(more: int) -> None:
            nonlocal done
            done += more
            on_progress(done, num_rows)

        started = time.monotonic()
        for number, table in engine.scored_parts(wanted.source, parts, missing, on_rows):
            parts.write(number, table)
        seconds = time.monotonic() - started
        errors, first_error = merge(parts, wanted.out, csv_safe=wanted.csv_safe)
        remove_parts(parts)
    return Predicted(
        rows=num_rows,
        errors=errors,
        first_error=first_error,
        scored_rows=num_rows - before,
        resumed_parts=parts.num_parts - len(missing),
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True)
class InThisProcess:
    """The version's file, computed here."""

    file: ModelFile
    device: Device = "cpu"

    @property
    def model(self) -> Model:
        """What it asks."""
        return self.file.model

    def scored_parts(self, source: ImageSource, parts: Parts, numbers: list[int], on_rows: OnRows) -> Scored:
        """Give the parts in their order."""
        instances = self.file.instances
        compute = Sessions(self.file.path, self.model, self.file.config, instances=instances, device=self.device)
        workers = workers_for(source, in_flight=instances, cores=usable_cores())
        for first, last in stretches(numbers):
            stretch = source.part(parts.bounds(first)[0], parts.bounds(last)[1])
            tables = score_rows(stretch, self.model, compute, parts.manifest.top, workers)
            yield from cut_into_parts(report_rows(tables, on_rows), parts, range(first, last + 1))


def stretches(numbers: list[int]) -> list[tuple[int, int]]:
    """Return numbers as the first and last of those that follow each other, so that streaming does not stop."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def report_rows(tables: Iterable[pa.Table], on_rows: OnRows) -> Iterator[pa.Table]:
    """Give the tables and tell the rows of each."""
    for table in tables:
        on_rows(table.num_rows)
        yield table


def cut_into_parts(tables: Iterable[pa.Table], parts: Parts, numbers: Iterable[int]) -> Scored:
    """Give the rows of consecutive parts as those parts."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    expected = iter(numbers)
    number = next(expected, None)
    for table in tables:
        waiting.append(table)
        while number is not None and sum(one.num_rows for one in waiting) >= parts.size(number):
            joined = pa.concat_tables(waiting)
            yield number, joined.slice(0, parts.size(number)).combine_chunks()
            rest = joined.slice(parts.size(number))
            waiting = [rest] if rest.num_rows else []
            number = next(expected, None)
    assert number is None, number


def require_packages() -> None:
    """Check for the packages of `resx[predict]`.

    Raises:
        MissingCapability: one is not installed.
    """
    for name in ("pyarrow", "fsspec"):
        if importlib.util.find_spec(name) is None:
            raise MissingCapability(f"{name} is not installed; pip install 'resx[predict]'")
