from __future__ import annotations

import io

import numpy as np
import pytest

from resx.errors import first_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cannot load it\nat frame 3", "cannot load it"),
        ("\n\n  indented reason \n more", "indented reason"),
        ("", "RuntimeError"),
        (" \n ", "RuntimeError"),
    ],
)
def test_a_foreign_error_is_its_first_line_that_says_something(text: str, line: str) -> None:
    assert first_line(RuntimeError(text)) == line


def test_the_class_is_named_once() -> None:
    assert first_line(KeyError("width"), with_type=True) == "KeyError: 'width'"
    assert first_line(KeyError(), with_type=True) == "KeyError"


def test_advice_how_to_run_what_a_file_holds_is_left_out_and_a_files_name_is_no_advice() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    file.seek(0)
    with pytest.raises(ValueError, match="allow_pickle") as refusal:
        np.load(file, allow_pickle=False)
    assert "allow_pickle" not in first_line(refusal.value)
    assert first_line(OSError("weights_only.onnx is no file")) == "weights_only.onnx is no file"
