"""The table of timm's families: it leaves none out, a run goes on from it, and refusals are known."""

from pathlib import Path

import timm
from benchmarks.timm_family_page import FAMILIES, OTHER_MODULES, Row, is_of_today, read_rows, refused, write_page

DOCUMENTED = Path(__file__).parents[1] / "docs" / "timm.md"
KNOWN = {
    "bat_resnext26ts",
    "csatv2",
    "efficientnet_cc_b0_4e",
    "efficientnetv2_rw_t",
    "inception_v3",
    "resnet50_clip_gap",
    "tf_efficientnet_b0",
}
"""Refused, as docs/how-to/timm.md says."""


def test_every_module_of_timm_is_in_the_table_or_left_out_by_name() -> None:
    named = {module for module in timm.list_modules() if {*timm.list_models(module=module)} & {*FAMILIES.values()}}
    assert {*timm.list_modules()} - named - OTHER_MODULES == set()
    assert not named & OTHER_MODULES
    assert all(map(timm.is_model, FAMILIES.values()))


def test_a_run_goes_on_from_the_rows_of_the_page() -> None:
    rows = {
        "resnet10t": Row(family="ResNet", name="resnet10t", pixels="64", fp32="1.0e-07"),
        "vgg11": Row(family="VGG", name="vgg11", pixels="64", fp16=refused("a | b\nc")),
    }
    page = write_page(rows)
    assert read_rows(page) == rows
    assert "1 of 2 families passed, 0 of them served; " in page
    assert [row.is_refused for row in rows.values()] == [False, True]
    assert is_of_today(page)
    assert not is_of_today(page.replace("Versions: timm ", "Versions: timm 0."))


def test_the_documented_table_says_which_families_are_refused() -> None:
    rows = read_rows(DOCUMENTED.read_text())
    assert rows
    assert {name for name, row in rows.items() if row.is_refused} <= KNOWN
