"""The page of a comparison: every form once, with nothing that is fetched or run."""

from __future__ import annotations

import re

from resx.bench.exports.comparison import Picked
from resx.bench.exports.page import html
from tests.support.compared_forms import comparison, failed, form
from tests.support.report_page import read_page

HOSTILE = '<script>alert("x")</script>&</title>'


def test_the_page_has_every_form_and_needs_nothing_but_itself() -> None:
    forms = [form("onnxruntime fp32", 4.0, right=95), form("openvino int8", 2.0, right=90)]
    found = comparison(*forms, failed("openvino bf16", HOSTILE), source=HOSTILE, command=HOSTILE)

    text = html(found)
    page = read_page(text)

    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    rows = [row.text for row in page.one("forms").all("tr") if row.text.startswith(("onnxruntime", "openvino"))]
    assert rows[0] == "onnxruntime fp32 yes 1.00 2e-05 95.0 % (88.8 to 97.8) 3 0.5 4.000 100 50"
    assert len(rows) == 4, "both forms, in both tables"
    assert len(page.one("forms-chart").marks) == len(page.one("throughput-chart").marks) == 2
    assert HOSTILE in page.one("failed").text
    verdict = page.one("result")
    assert next(verdict.all("b")).text == "onnxruntime fp32"
    assert ": the best form (highest accuracy, then lowest latency)" in verdict.text
    assert "joins the filled marks, the forms on the front: openvino int8, onnxruntime fp32" in page.text


def test_without_images_there_is_no_accuracy_and_size_takes_its_place() -> None:
    page = read_page(html(comparison(form("onnxruntime fp32", 4.0), form("onnxruntime fp16", 5.0, size_mb=0.5))))

    assert next(page.one("forms-chart").all("h3")).text == "Size by latency"
    assert "Accuracy" not in page.text
    assert not page.has("failed")


def test_the_page_says_what_was_published_and_that_weights_are_random() -> None:
    picked = Picked(conditions="latency<5ms", form="openvino fp32", name="m", version=3)
    forms = [form("onnxruntime fp32", 4.0), form("openvino fp32", 5.0)]

    verdict = read_page(html(comparison(*forms, picked=picked, random_weights=True))).one("result")

    assert next(verdict.all("b")).text == "openvino fp32"
    assert ": published as m version 3: the best form that meets latency<5ms (lowest latency)" in verdict.text
    assert "The weights are random" in verdict.text


def test_where_every_form_failed_the_page_says_so() -> None:
    page = read_page(html(comparison(failed("onnxruntime fp32", "differs"))))

    assert next(page.one("result").all("b")).text == "No form"
    assert not page.has("forms-chart")
    assert "differs" in page.one("failed").text
