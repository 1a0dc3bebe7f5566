"""Conditions as they are typed, the form that they pick, and what is refused."""

from __future__ import annotations

import pytest

from resx.bench.exports.conditions import parse_conditions, pick
from resx.errors import ObjectiveMissed, UsageError
from tests.support.compared_forms import failed, form

FORMS = (
    form("onnxruntime fp32", 4.0, right=95, size_mb=4, images_per_s=500),
    form("openvino fp32", 3.0, right=95, size_mb=4, images_per_s=800),
    form("onnxruntime int8", 1.0, right=90, size_mb=1, images_per_s=2000),
    failed("openvino bf16", "no"),
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("latency<5ms", "openvino fp32"),
        ("latency <= 3", "openvino fp32"),
        ("latency<3ms", "onnxruntime int8"),
        ("latency<2500us", "onnxruntime int8"),
        ("Latency<0.0035s", "openvino fp32"),
        ("size<2MB", "onnxruntime int8"),
        ("size<=4000kB", "openvino fp32"),
        ("accuracy>=95%", "openvino fp32"),
        ("accuracy>0.949", "openvino fp32"),
        ("throughput>1000", "onnxruntime int8"),
        ("throughput>=500 images/s", "openvino fp32"),
        ("latency<5ms, size<2MB", "onnxruntime int8"),
    ],
)
def test_the_best_form_that_meets_the_conditions_is_picked(text: str, name: str) -> None:
    assert pick(FORMS, parse_conditions(text), text).name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latency<0.5ms", "the lowest latency is 1 ms, of onnxruntime int8"),
        ("accuracy>99%", "the highest accuracy is 95.00 %, of onnxruntime fp32"),
        ("accuracy>94%,size<2MB", "each condition is met by a form, but no form meets them all"),
    ],
)
def test_where_none_meets_them_the_message_says_what_comes_nearest(text: str, words: str) -> None:
    with pytest.raises(ObjectiveMissed, match=words):
        pick(FORMS, parse_conditions(text), text)


def test_where_every_form_failed_nothing_is_picked() -> None:
    with pytest.raises(ObjectiveMissed, match="no form was exported"):
        pick(FORMS[-1:], parse_conditions("size<1GB"), "size<1GB")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fast", "not a condition; use latency<5ms"),
        ("", "not a condition"),
        ("latency<5ms,", "not a condition"),
        ("latency=5ms", "not a condition"),
        ("latency<-5ms", "not a condition"),
        ("latency<nan", "not a condition"),
        ("speed<5ms", "not a condition"),
        ("latency<5MB", "latency has no unit 'mb'; use one of ms, us, s"),
        ("latency>5ms", "an upper bound: use <"),
        ("accuracy<97%", "a lower bound: use >"),
        ("accuracy>97", "use 0.97 or 97%"),
        ("latency<0", "use a bound above 0"),
    ],
)
def test_a_malformed_condition_is_refused_with_what_may_be_typed(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_conditions(text)
    assert words in str(refused.value)
