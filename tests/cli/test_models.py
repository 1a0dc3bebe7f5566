"""`resx models` with a pattern."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.command import Finished, refused

Resx = Callable[..., Finished]


@pytest.mark.parametrize(
    ("pattern", "some"), [("*50*", "resnet50"), ("DenseNet*", "densenet169"), ("resnet1[08]", "resnet18")]
)
def test_a_glob_filters_the_variants(resx: Resx, pattern: str, some: str) -> None:
    done = resx("models", pattern, "--json")
    names = [entry["name"] for entry in done.json["models"]]
    assert some in names
    assert len(names) < len(resx("models", "--json").json["models"])


@pytest.mark.parametrize(("pattern", "near"), [("resnet51", "resnet50"), ("*resnte18*", "resnet18"), ("zzz*", "lists")])
def test_a_pattern_that_matches_nothing_names_the_nearest(resx: Resx, pattern: str, near: str) -> None:
    refused(resx("models", pattern), 2, pattern, near)


@pytest.mark.parametrize(("width", "hidden"), [("80", True), ("80 --wide", False), ("", False)])
def test_the_table_fits_unless_all_is_wished(resx: Resx, width: str, hidden: bool) -> None:
    columns, _, wide = width.partition(" ")
    done = resx("models", *([wide] if wide else []), env={"COLUMNS": columns} if columns else {})
    assert ("Hidden at this width: paper" in done.out) == hidden
    if hidden:
        assert max(map(len, done.out.splitlines())) <= 80
