"""Which forms are on the front, and which one is best."""

from __future__ import annotations

from resx.bench.exports.comparison import best_of, mark_front, spread_of
from tests.support.compared_forms import failed, form


def test_the_front_is_of_latency_and_accuracy_where_accuracy_is_known() -> None:
    forms = [
        form("onnxruntime fp32", 4.0, right=95),
        form("openvino fp32", 3.0, right=95),
        form("onnxruntime int8", 1.0, right=90),
        form("openvino int8", 2.0, right=90, size_mb=0.1),
        failed("openvino bf16", "no"),
    ]

    marked, by = mark_front(forms)

    assert by == "latency and accuracy"
    assert [one.name for one in marked] == [one.name for one in forms]
    assert [one.name for one in marked if one.on_front] == ["openvino fp32", "onnxruntime int8"]


def test_without_accuracy_the_front_is_of_latency_and_size() -> None:
    forms = [form("onnxruntime fp32", 4.0, size_mb=4), form("onnxruntime fp16", 5.0, size_mb=2)]

    marked, by = mark_front([*forms, form("openvino fp32", 4.5, size_mb=4)])

    assert by == "latency and size"
    assert [one.on_front for one in marked] == [True, True, False]


def test_the_best_form_is_the_most_accurate_and_of_equals_the_fastest() -> None:
    slow, fast = form("onnxruntime fp32", 4.0, right=95), form("openvino fp32", 3.0, right=95)
    worse = form("onnxruntime int8", 1.0, right=94)

    assert best_of([slow, worse, fast, failed("openvino bf16", "no")]) == fast
    assert best_of([failed("openvino bf16", "no")]) is None


def test_a_spread_has_the_middle_and_both_ends_of_the_rounds() -> None:
    found = spread_of([3.0, 1.0, 2.5])
    assert (found.low, found.median, found.high, found.half_range) == (1.0, 2.5, 3.0, 1.0)
