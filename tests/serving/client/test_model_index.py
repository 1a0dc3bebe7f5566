"""Why a model does not answer, by what the server's index says of it."""

from __future__ import annotations

import pytest

from resx.serving.client.model_index import why_not_ready


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"state": "LOADING"}, "version 1 is still loading; try again when it is loaded"),
        ({"state": "UNAVAILABLE", "reason": "no file"}, "version 1 is UNAVAILABLE: no file; retry with `resx deploy`"),
        ({"state": "UNLOADING"}, "version 1 is UNLOADING; retry with `resx deploy`"),
        ({"state": "UNAVAILABLE", "reason": "unloaded"}, ""),
        ({"state": "READY"}, ""),
        ({}, ""),
    ],
)
def test_a_model_that_does_not_answer_is_told_with_what_helps(entry: dict[str, str], expected: str) -> None:
    index = {"models": [{"name": "other", "version": "1", "state": "LOADING"}, {"name": "m", "version": "1", **entry}]}
    assert why_not_ready(index, "m") == expected
