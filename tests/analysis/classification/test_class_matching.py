"""Which class of the data is which output: by name in any order; differences are named in one line."""

from __future__ import annotations

import numpy as np
import pytest

from resx.analysis.classification.class_matching import ClassMatch, match_classes
from resx.errors import UsageError


def match(labels: list[str], classes: list[str], *, outputs: int = 0, by_position: bool = False) -> ClassMatch:
    return match_classes("m", labels, outputs or len(labels), "folder:d", classes, by_position=by_position)


def test_the_same_names_in_another_order_are_matched() -> None:
    found = match(["red", "green", "blue"], ["blue", "green", "red"])

    assert found.by == "name"
    assert found.arrange(np.array([[0.1, 0.2, 0.7]], np.float32))[0].tolist() == pytest.approx([0.7, 0.2, 0.1])


def test_two_unicode_forms_of_a_name_are_one_class() -> None:
    assert match(["caf\u00e9", "bar"], ["bar", "cafe\u0301"]).outputs.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (["cat", "dog"], ["cat", "fox"], ["'fox' is in the data only", "'dog' is in the model only", "--by-position"]),
        (["cat", "dog"], ["cat", "dog", "fox"], ["'fox' is in the data only"]),
        (["cat", "dog", "fox"], ["cat", "dog"], ["'fox' is in the model only"]),
        (["cat", ""], ["cat", "dog"], ["'dog' is in the data only", "'output 1' is in the model only"]),
        (list("abcdefg"), ["a", "b"], ["'c', 'd', 'e' and 2 more are in the model only"]),
        (["crane", "crane"], ["crane", "heron"], ["'heron' is in the data only"]),
        (["crane", "crane", "owl"], ["crane", "owl"], ["'crane' names 2 outputs of m"]),
    ],
)
def test_other_names_are_refused_in_a_line_that_names_them(
    labels: list[str], classes: list[str], words: list[str]
) -> None:
    with pytest.raises(UsageError) as refusal:
        match(labels, classes)

    text = str(refusal.value)
    assert text.startswith("folder:d: ")
    assert all(word in text for word in words), text
    assert ("--by-position" in text) == (len(labels) == len(classes))


def test_placeholders_are_no_names_unless_the_data_have_them_too() -> None:
    placeholders = [f"class-{number}" for number in range(11)]

    assert match(placeholders, [f"digit-{number}" for number in range(11)]).by == "position"
    folders = match(placeholders, sorted(placeholders))
    assert (folders.by, folders.outputs.tolist()[:3]) == ("name", [0, 1, 10])
    with pytest.raises(UsageError, match="has 2 classes and m 11 outputs"):
        match(placeholders, ["a", "b"])


def test_without_names_or_where_they_do_not_count_the_order_decides() -> None:
    for found in (match([], ["a", "b"], outputs=2), match(["x", "y"], ["a", "b"], by_position=True)):
        assert (found.outputs.tolist(), found.by) == ([0, 1], "position")
    with pytest.raises(UsageError, match="has 3 classes and m 2 outputs"):
        match([], ["a", "b", "c"], outputs=2)
    with pytest.raises(UsageError, match="has 3 classes and m 2 outputs"):
        match(["a", "b"], ["a", "b", "c"], by_position=True)
