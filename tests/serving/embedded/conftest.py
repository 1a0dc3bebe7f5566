"""The code that runs inside Triton, loaded without it."""

from types import ModuleType

import pytest

from tests.support.backend_alone import MODEL, load_backend


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_backend(monkeypatch, MODEL)
