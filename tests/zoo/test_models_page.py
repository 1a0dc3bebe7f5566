"""docs/models.md says what there is."""

import re
from pathlib import Path

from docsite.block_diagrams import DIAGRAMS, PREACTIVATION, Panel

import resx
from resx.zoo.families.preresnet import ORDERS

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def _names() -> set[str]:
    """The names of the table: a short form such as `34` stands behind the name whose beginning it shares."""
    names: set[str] = set()
    for row in re.findall(r"^\| [^|]* \| [^|]*` \| .*$", PAGE, flags=re.MULTILINE):
        beginning = ""
        for token in re.findall(r"`([^`]+)`", row.split("|")[2]):
            if token[0].isdigit():
                names.add(beginning + token)
            else:
                names.add(token)
                beginning = re.match(r"[a-z_]+", token)[0]
    return names


def test_every_name_is_on_the_page_and_no_other() -> None:
    assert _names() == set(resx.list_models())


def _steps(panel: Panel) -> list[str]:
    """The steps of a chain; two that share a box come one after the other."""
    return [step for text in panel.boxes.values() for step in text.strip("*").split(", ")]


def test_every_unit_of_the_preactivation_figure_is_drawn_in_its_order() -> None:
    assert {panel.title for panel in PREACTIVATION} == set(ORDERS)
    for panel in PREACTIVATION:
        order = ORDERS[panel.title]  # type: ignore[index]
        end = len(order.layer) - order.num_after_addition
        expected = ["x", *order.layer, *order.layer[:end], "× p", "+", *order.layer[end:]]
        assert _steps(panel) == expected, panel.title


def test_every_diagram_is_shown() -> None:
    for name in DIAGRAMS:
        assert f"(assets/blocks-{name}-light.svg#only-light)" in PAGE
        assert f"(assets/blocks-{name}-dark.svg#only-dark)" in PAGE
