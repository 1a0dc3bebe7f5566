"""The code that runs inside Triton, loaded without it."""

from collections.abc import Iterator
from types import ModuleType

import pytest

from resx.runtimes.signal_stack import keep_signal_stack
from tests.support.backend_alone import MODEL, load_backend


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_backend(monkeypatch, MODEL)


@pytest.fixture(autouse=True)
def signals_stay_as_they_are() -> Iterator[None]:
    """A backend's process ends with its models; this one opens many, and handles signals afterwards."""
    with keep_signal_stack():
        yield
