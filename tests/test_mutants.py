"""The table of `make mutants` fits the code, and its runner tells a caught fault from everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.mutants.fault_table import BadRow, Fault, read_faults
from benchmarks.mutants.trials import Bench, copy_repository

ROOT = Path(__file__).parents[1]
ROW = """[[fault]]
name = "one and one is three"
promise = "Sums are right."
file = "sums.py"
before = "a + b"
after = "a + b + 1"
tests = ["test_sums.py::test_one_and_one"]
"""
SUMS = "def add(a, b):\n    return a + b\n"
TEST = "from sums import add\n\n\ndef test_one_and_one():\n    assert add(1, 1) == 2\n"


def test_every_row_fits_the_code_and_every_room_has_some() -> None:
    """Whoever changes a line that a row names changes the row with it."""
    faults = read_faults(ROOT)

    assert len(faults) >= 80
    rooms = {path.name for path in (ROOT / "src" / "resx").iterdir() if (path / "__init__.py").is_file()}
    assert {fault.room for fault in faults} == (rooms - {"files"}) | {"ground"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(folder=tmp_path)
    (bench.tree / "src").mkdir(parents=True)
    (bench.tree / "src" / "sums.py").write_text(SUMS)
    (bench.tree / "test_sums.py").write_text(TEST)
    return bench


def fault(**changes: str) -> Fault:
    fields = {"room": "x", "name": "x", "promise": "x", "file": "src/sums.py", "before": "a + b", "after": "a + b + 1"}
    return Fault(tests=("test_sums.py",), **(fields | changes))


@pytest.mark.parametrize(
    ("after", "verdict"),
    [("a + b + 1", "caught"), ("b + a", "not caught"), ("a +", "broken")],
)
def test_a_fault_is_caught_where_an_assertion_fails(bench: Bench, after: str, verdict: str) -> None:
    """Not where the tests cannot even be read, which says nothing about the promise."""
    planted = fault(after=after)

    with bench.planted(planted):
        assert bench.run(planted.tests, 600).verdict == verdict

    assert (bench.tree / "src" / "sums.py").read_text() == SUMS
    assert bench.run(planted.tests, 600).verdict == "not caught"


def test_tests_that_are_skipped_or_do_not_end_prove_nothing(bench: Bench) -> None:
    (bench.tree / "test_skipped.py").write_text("import pytest\n\n\n@pytest.mark.skip\ndef test_x(): ...\n")
    (bench.tree / "test_endless.py").write_text("import time\n\n\ndef test_x(): time.sleep(600)\n")

    assert bench.run(("test_skipped.py",), 600).verdict == "broken"
    assert bench.run(("test_endless.py",), 5).verdict == "too long"


@pytest.mark.parametrize(
    ("before", "instead", "reason"),
    [
        ('before = "a + b"', 'before = "a - b"', "holds 'a - b' 0 times"),
        ('before = "a + b"', 'before = "a"', "holds 'a' 3 times"),
        ('file = "sums.py"', 'file = "sum.py"', "sum.py is not there"),
        ("::test_one_and_one", "::test_two", "no such test: test_sums.py::test_two"),
        ("test_sums.py", "test_sum.py", "no such test: test_sum.py"),
    ],
)
def test_a_row_that_no_longer_fits_is_refused_by_name(tmp_path: Path, before: str, instead: str, reason: str) -> None:
    (tmp_path / "sums.py").write_text(SUMS)
    (tmp_path / "test_sums.py").write_text(TEST)
    (tmp_path / "arithmetic.toml").write_text(ROW)
    assert [found.name for found in read_faults(tmp_path, tmp_path)] == ["one and one is three"]
    (tmp_path / "arithmetic.toml").write_text(ROW.replace(before, instead))

    with pytest.raises(BadRow, match="^arithmetic: one and one is three: ") as error:
        read_faults(tmp_path, tmp_path)
    assert reason in str(error.value)


def test_a_copy_has_what_is_tracked_and_nothing_else(tmp_path: Path) -> None:
    bench = copy_repository(ROOT, tmp_path)

    assert (bench.tree / "src" / "resx" / "__init__.py").is_file()
    assert not (bench.tree / ".git").exists()
    assert not list(bench.tree.rglob("*.pyc"))
