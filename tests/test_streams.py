from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest

from resx.streams import silence_descriptor, silence_library


def _call_a_noisy_library() -> None:
    print("a remark")  # noqa: T201
    logging.getLogger("theirs").warning("a log")
    logging.getLogger("theirs").error("worth saying")
    warnings.warn("a warning", stacklevel=1)  # an error in tests, if it is not silenced
    raise RuntimeError


def test_a_silenced_librarys_prints_warnings_and_logs_are_gone_and_come_back(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    disabled = logging.root.manager.disable
    with pytest.raises(RuntimeError), silence_library():
        _call_a_noisy_library()
    assert [record.message for record in caplog.records] == ["worth saying"]
    assert logging.root.manager.disable == disabled
    print("again")  # noqa: T201
    assert capsys.readouterr().out == "again\n"


def test_a_module_that_prints_to_stderr_is_silenced_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    module = sys.modules[__name__]
    with silence_library(printing=[__name__]):
        print("a graph", file=sys.stderr)  # noqa: T201
    assert "print" not in vars(module)
    assert not capsys.readouterr().err


def test_what_native_code_writes_goes_nowhere_until_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with silence_descriptor(sys.stdout):
        os.write(1, b"native words\n")
    os.write(1, b"again\n")
    assert capfd.readouterr().out == "again\n"
