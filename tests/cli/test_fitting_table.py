"""Tables in terminals of any width: columns go, numbers stay whole, and what went is named."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from resx.cli.console import SafeConsole
from resx.cli.fitting_table import FittingTable
from resx.cli.output import table

COLUMNS = ["load", "batch", "images/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed", "queue ms", "client ms"]
ROW = ["concurrency 16", "1", "12345.6", "123.45", "234.56", "345.67", "456.78", "0", "12.34", "23.45"]
BENCH = table("", COLUMNS, [ROW, ["rate 20", *ROW[1:]]], least=("client ms", "queue ms", "batch"))


def printed(made: FittingTable, width: int) -> list[str]:
    stream = io.StringIO()
    SafeConsole(stream, width=width).print(made)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 33, 40, 60, 79, 80, 81, 100, 120, 10_000])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    lines = printed(BENCH, width)
    assert max(map(len, lines)) <= width
    shown = [word for line in lines for word in line.split() if word.replace(".", "").isdigit()]
    assert set(shown) <= {*ROW, "16", "20"}, "a part of a number"
    assert "…" not in "".join(lines)


def test_eighty_columns_show_eight_and_name_the_others_in_one_line() -> None:
    head, _, _ = printed(BENCH, 80)[:3]
    assert head.split("  ")[0] == "load"
    assert len([name for name in COLUMNS if name in head]) == 8
    assert printed(BENCH, 80)[-1] == "Hidden at this width: queue ms, client ms. --wide shows all columns."


def test_columns_go_in_the_order_that_is_said_and_the_first_never() -> None:
    gone = [{*COLUMNS} - {COLUMNS[place] for place in BENCH.fitting(width)} for width in (200, 90, 80, 70, 20)]
    assert gone[0] == set()
    assert [sorted(names) for names in gone[1:3]] == [["client ms"], ["client ms", "queue ms"]]
    assert gone[3] == {"client ms", "queue ms", "batch"}
    assert "load" not in gone[4]


def test_where_all_fits_nothing_is_said() -> None:
    assert not [line for line in printed(BENCH, 10_000) if "Hidden" in line]


def test_words_go_on_in_the_next_line_and_a_cell_may_have_a_color() -> None:
    made = table("", ["check", "verdict", "detail"], [["file", Text("passed", "green"), "word " * 30]], left=3)
    lines = printed(made, 60)
    assert max(map(len, lines)) <= 60
    assert sum(line.count("word") for line in lines) == 30
    assert sum("passed" in line for line in lines) == 1


def test_a_matrix_has_as_many_columns_as_fit() -> None:
    made = table("", ["", *map(str, range(12))], [["0 digit-0", *["35"] * 12]], is_matrix=True)
    assert len(made.fitting(80)) == 13
    assert len(made.fitting(40)) < 13
    assert max(map(len, printed(made, 40)[:-1])) <= 40


def test_a_name_is_whole_where_a_column_of_words_has_room_to_give() -> None:
    made = table("", ["what", "detail"], [["tensorrt-rtx-cu12", "word " * 30]], left=2)
    assert "tensorrt-rtx-cu12" in " ".join(printed(made, 40)).split()
