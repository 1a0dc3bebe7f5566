"""The output: the parts' rows, in their order, in the format that its name asks for.

    .parquet    path, classes, labels, probabilities (lists of the `top` most likely, best first), error
    .jsonl      the same, one object a line
    .csv        path, class_1, label_1, probability_1, class_2, ..., error

Where the model's outputs stand for themselves (`resx.card.output_kind`), the numbers are called scores.
Parts are read one after the other, so memory does not depend on their number.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from resx.errors import UsageError
from resx.scoring.parts import MERGED, Parts, writing
from resx.scoring.sources.uri import without_secrets
from resx.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

Write: TypeAlias = "Callable[[Path, Iterable[pa.Table], int], None]"

# What a spreadsheet takes for a formula's beginning (OWASP, "CSV Injection"): full-width signs count in some locales.
_SIGN = "[=+\\-@\uff1d\uff0b\uff0d\uff20]"
# Behind blanks and quotes too, which some drop; and what a cell cannot begin with without looking like another's end.
_AT_THE_START = re.compile(rf'[\t\r\n]|[\s"]*{_SIGN}')
# A program that parts a line elsewhere (`;` in many locales) finds cells that begin in the middle of ours.
_AFTER_A_SEPARATOR = re.compile(rf'([,;|\t\r\n][\s"]*)(?={_SIGN})')


def require_format(out: Path, *, csv_safe: bool = False) -> None:
    """Check that the output's name says a format, and CSV if it is to be safe for spreadsheets.

    Raises:
        UsageError: it does not, or it has bytes that are no UTF-8.
    """
    if printable(str(out)) != str(out):
        raise UsageError(f"-o {out}: not valid UTF-8; choose another name")
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"-o {out}: unknown format; use a name that ends in {', '.join(FORMATS)}")
    if csv_safe and out.suffix.lower() != ".csv":
        raise UsageError(f"--csv-safe, -o {out}: applies to .csv files only; remove --csv-safe, or write a .csv")


def merge(parts: Parts, out: Path, *, csv_safe: bool = False) -> tuple[int, str]:
    """Write all parts' rows to the output, which is replaced in one step; return how many rows failed, and the first.

    Args:
        parts: all there.
        out: its name says the format.
        csv_safe: write no cell of a CSV that a spreadsheet computes.

    Raises:
        ResxError: a part is damaged, or the output cannot be written.
    """
    errors, first = 0, ""

    def tables() -> Iterable[pa.Table]:
        nonlocal errors, first
        for number in range(parts.num_parts):
            table = parts.read(number)
            failed = table.num_rows - table["error"].null_count
            if failed and not errors:
                row = table.filter(table["error"].is_valid()).slice(0, 1).to_pylist()[0]
                first = f"{without_secrets(row['path'])}: {row['error']}"
            errors += failed
            yield table

    staged = parts.folder / MERGED
    with writing(out):
        write = _write_safe_csv if csv_safe else FORMATS[out.suffix.lower()]
        write(staged, tables(), parts.manifest.top)
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(out)
    return errors, first


def _write_parquet(path: Path, tables: Iterable[pa.Table], top: int) -> None:  # noqa: ARG001
    from pyarrow import parquet

    first, every = _first(tables)
    with parquet.ParquetWriter(path, first.schema) as writer:
        for table in every:
            writer.write_table(table)


def _write_jsonl(path: Path, tables: Iterable[pa.Table], top: int) -> None:  # noqa: ARG001
    first, every = _first(tables)
    numbers = _numbers(first)
    with path.open("w", encoding="utf-8") as file:
        for table in every:
            for row in table.to_pylist():
                row[numbers] = [_short(share) for share in row[numbers]]
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def without_formula(cell: str) -> str:
    """Return a cell's text with an apostrophe in front of whatever a spreadsheet would compute."""
    text = _AFTER_A_SEPARATOR.sub(r"\1'", cell)
    return f"'{text}" if _AT_THE_START.match(cell) else text


def _write_safe_csv(path: Path, tables: Iterable[pa.Table], top: int) -> None:
    _write_csv(path, tables, top, without_formula)


def _write_csv(path: Path, tables: Iterable[pa.Table], top: int, text: Callable[[str], str] = str) -> None:
    first, every = _first(tables)
    numbers = _numbers(first)
    number = {"probabilities": "probability", "scores": "score"}[numbers]
    names = [f"{name}_{place}" for place in range(1, top + 1) for name in ("class", "label", number)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *names, "error"])
        for table in every:
            for row in table.to_pylist():
                best = zip(row["classes"], map(text, row["labels"]), map(_short, row[numbers]), strict=True)
                cells: list[Any] = [value for guess in best for value in guess]
                writer.writerow([text(row["path"]), *(cells or [""] * 3 * top), text(row["error"] or "")])


def _first(tables: Iterable[pa.Table]) -> tuple[pa.Table, Iterable[pa.Table]]:
    """Return the first of the tables, whose columns are all the others' too, and all of them."""
    rest = iter(tables)
    first = next(rest)
    return first, itertools.chain([first], rest)


def _numbers(table: pa.Table) -> str:
    return next(name for name in ("probabilities", "scores") if name in table.column_names)


def _short(share: float) -> float:
    """Return an fp32 number as the shortest decimal that means it."""
    return float(str(np.float32(share)))


FORMATS: dict[str, Write] = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
