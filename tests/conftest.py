"""What the tests share: small real models, a real repository, a real Triton, the command itself.

Every test has a state folder of its own kind (RESX_STATE), so no test meets a server that the user runs;
the cache folder is the user's, so that the Triton wheel is fetched once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from resx.repository.versions import Repository
from resx.runtimes.float_state import keep_float_state
from resx.serving.embedded.server_ports import Ports
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support.command import Finished, Resx, WarmResx, run_resx
from tests.support.running_triton import RunningTriton
from tests.support.selection import is_among_the_longest, is_integration
from tests.support.tiny_models import publish_tiny


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test` leaves to `make test-more`, and put the longest first."""
    for item in items:
        if is_integration(item.nodeid.removeprefix("tests/")):
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: not is_among_the_longest(item.nodeid.removeprefix("tests/")))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Let commands under test see SIGINT: a shell's background job ignores it, and its children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def width_of_a_pipe() -> None:
    """Let tables be as wide as in any pipe: pytest loads readline, which leaves COLUMNS to its workers."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True)
def modules_of_the_working_folder() -> Iterator[None]:
    """Take away what resx's own entry sets for whatever it starts, where a test called it in this process."""
    yield
    os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(autouse=True)
def float_state() -> Iterator[None]:
    """Keep denormal numbers for the next test: a backend in this process lets OpenVINO take them away for good."""
    with keep_float_state():
        yield


@pytest.fixture(scope="session", autouse=True)
def exports_are_made() -> None:
    """Keep no exports, so that none is taken from an earlier run of the tests."""
    os.environ["RESX_EXPORT_CACHE_GB"] = "0"


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("state")
    before = os.environ.get("RESX_STATE")
    os.environ["RESX_STATE"] = str(folder)
    yield folder
    os.environ.pop("RESX_STATE")
    if before is not None:
        os.environ["RESX_STATE"] = before


@pytest.fixture(scope="session")
def warm_resx() -> Iterator[WarmResx]:
    """A process that has imported what the commands import."""
    process = WarmResx()
    yield process
    process.end()


@pytest.fixture
def resx(tmp_path: Path, warm_resx: WarmResx) -> Resx:
    """Run the command as a user would, in an empty folder; with variables of its own, in a new interpreter."""

    def run(*arguments: str | Path, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> Finished:
        if env is None:
            return warm_resx.run(*arguments, cwd=cwd, env=os.environ)
        return run_resx(*arguments, cwd=cwd, env=os.environ | env)

    return run


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> Iterator[RunningTriton]:
    """A real Triton that serves `tiny` (uint8), `tiny_fp16` and `tiny_float` (float32 input)."""
    repository = Repository(tmp_path_factory.mktemp("served") / "model_repository")
    publish_tiny(repository, "tiny")
    publish_tiny(repository, "tiny_fp16", precision="fp16")
    publish_tiny(repository, "tiny_float", input_type="float32")
    serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    yield RunningTriton(repository=repository)
    stop(repository)
