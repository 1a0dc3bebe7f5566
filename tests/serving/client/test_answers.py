"""What a server says is parsed within bounds: each check by itself, whatever another one would find behind it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from resx.repository.interface import Unexpected
from resx.serving.client.answers import Inference, as_json, logits_of
from tests.support.load_targets import INTERFACE


def rows(num_rows: int) -> Inference:
    content = np.zeros((num_rows, 10), np.float32).tobytes()
    return Inference(version=1, datatype="FP32", shape=(num_rows, 10), content=content)


@pytest.mark.parametrize("num_classes", [10, 0], ids=["ten classes", "an open number of classes"])
def test_an_answer_has_a_row_for_each_that_was_asked_for(num_classes: int) -> None:
    interface = replace(INTERFACE, num_classes=num_classes)

    assert logits_of(rows(2), interface, 2).shape == (2, 10)
    for num_rows in (1, 4):
        with pytest.raises(Unexpected, match=r"a tensor \[2, 10\] for "):
            logits_of(rows(2), interface, num_rows)


@pytest.mark.parametrize(
    "text", [b'{"a": 1, "a": 2}', b'{"b": {"a": 1, "a": 1}}', b"[NaN]", b"[Infinity]", b"[" * 9999]
)
def test_json_that_others_would_read_otherwise_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="repeated key|not a JSON number|nested too deep"):
        as_json(text)
