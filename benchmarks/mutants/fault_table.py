"""The table of faults: `faults/ROOM.toml`, one file for each room, and what a row has to be.

    [[fault]]
    name = "latency counts from sending"
    promise = "In an open loop, latency counts from when a request was due."
    file = "src/resx/bench/load/http_loop.py"
    before = "..."   # a piece of one line, which stands in the file exactly once
    after = "..."    # what stands there instead
    tests = ["tests/bench/load/test_http_loop.py"]   # the least that has to fail; run in this order

A row that no longer fits its file is refused by name: whoever changes that line changes the row with it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

TABLES = Path(__file__).with_name("faults")


class BadRow(Exception):  # noqa: N818 - what it is
    """Rows that do not fit the code any more, one a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One line that breaks one promise."""

    room: str
    name: str
    promise: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def plant(self, text: str) -> str:
        """Give the file's text with the fault in it."""
        return text.replace(self.before, self.after)


def read_faults(root: Path, tables: Path = TABLES) -> list[Fault]:
    """Read every row, and see that each fits the files below `root`.

    Raises:
        BadRow: with every row that does not.
    """
    faults = [
        Fault(room=table.stem, **(row | {"tests": tuple(row["tests"])}))
        for table in sorted(tables.glob("*.toml"))
        for row in tomllib.loads(table.read_text(encoding="utf-8"))["fault"]
    ]
    problems = [f"{fault.room}: {fault.name}: {why}" for fault in faults if (why := _misfit(fault, root))]
    names = [fault.name for fault in faults]
    problems += [f"{name}: two rows have this name" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise BadRow("\n".join(problems))
    return faults


def _misfit(fault: Fault, root: Path) -> str | None:
    if not (root / fault.file).is_file():
        return f"{fault.file} is not there"
    if "\n" in fault.before + fault.after or fault.before == fault.after:
        return "before and after are two different pieces of one line"
    if (times := (root / fault.file).read_text(encoding="utf-8").count(fault.before)) != 1:
        return f"{fault.file} holds {fault.before!r} {times} times; give a piece that it holds once"
    gone = [test for test in fault.tests if not _is_there(test, root)]
    return f"no such test: {', '.join(gone)}" if gone or not fault.tests else None


def _is_there(test: str, root: Path) -> bool:
    file, _, function = test.partition("::")
    if not (root / file).is_file():
        return False
    return not function or f"def {function.partition('[')[0]}(" in (root / file).read_text(encoding="utf-8")
