"""docs/models.md says what there is."""

import re
from pathlib import Path

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


def test_every_unit_of_the_preactivation_figure_is_drawn() -> None:
    assert all(f"\n{variant} " in PAGE for variant in ORDERS)
