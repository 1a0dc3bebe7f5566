"""A row holds its own image's answer: the most likely classes, best first, or why there is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from resx.errors import UsageError
from resx.repository.interface import Interface
from resx.scoring.rows import NOT_FINITE, Model, Prepared, score

Answer = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

MODEL = Model(
    name="m",
    version=1,
    sha256="",
    interface=Interface(
        input_name="image",
        input_type="FP32",
        output_name="scores",
        num_classes=3,
        input_dims=(3,),
        max_batch_size=4,
        parameters={"resx.output": "scores"},
    ),
    labels=("a", "b"),
)


def image(path: str, *values: float) -> Prepared:
    """An "image" whose scores are its own three numbers, which the model hands back."""
    return Prepared(path=path, x=np.array([values], np.float32))


def echo(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return x


def rows(batch: list[Prepared], compute: Answer = echo, *, top: int = 2) -> list[dict[str, object]]:
    found: list[dict[str, object]] = score(batch, MODEL, compute, top).to_pylist()
    return found


def test_the_most_likely_classes_come_first() -> None:
    (row,) = rows([image("x", 1.0, 3.0, 2.0)])

    assert row == {"path": "x", "classes": [1, 2], "labels": ["b", "class-2"], "scores": [3.0, 2.0], "error": None}


def test_a_bad_image_has_its_reason_and_leaves_the_others_their_answers() -> None:
    found = rows([image("x", 3, 2, 1), Prepared(path="bad", x=None, error="empty"), image("y", 1, 2, 3)], top=1)

    assert [row["path"] for row in found] == ["x", "bad", "y"]
    assert [row["classes"] for row in found] == [[0], [], [2]]
    assert [row["error"] for row in found] == [None, "empty", None]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_its_rows_error(value: float) -> None:
    found = rows([image("x", 1, 2, 3), image("y", 1, value, 3)])

    assert [row["error"] for row in found] == [None, NOT_FINITE]
    assert found[1]["classes"] == []


def test_a_batch_that_is_answered_with_too_few_rows_is_asked_one_by_one() -> None:
    def loses_one(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return x if len(x) == 1 and x[0, 0] != 7 else x[:-1]

    found = rows([image("x", 3, 2, 1), image("lost", 7, 0, 0), image("y", 1, 2, 3)], loses_one, top=1)

    assert [row["classes"] for row in found] == [[0], [], [2]]
    assert [row["error"] for row in found] == [None, "m answered 1 images with 0 rows", None]


def test_a_fixed_batch_is_filled_up_and_gives_the_asked_rows_alone() -> None:
    sizes: list[int] = []

    def count(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        sizes.append(len(x))
        return x

    fixed = Interface(
        input_name="image",
        input_type="FP32",
        output_name="scores",
        num_classes=3,
        input_dims=(3,),
        max_batch_size=4,
        fixed_batch=True,
        parameters=MODEL.interface.parameters,
    )
    model = Model(name="m", version=1, sha256="", interface=fixed, labels=())

    found = score([image("x", 3, 2, 1), image("y", 1, 2, 3)], model, count, 1).to_pylist()

    assert sizes == [4]
    assert [row["classes"] for row in found] == [[0], [2]]


def test_an_error_of_the_model_is_no_rows_error() -> None:
    def fails(_x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        raise UsageError("it broke")

    with pytest.raises(UsageError, match="it broke"):
        rows([image("x", 1, 2, 3)], fails)
