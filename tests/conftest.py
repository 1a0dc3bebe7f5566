"""What the tests share: small real models, a real repository, a real Triton, the command itself.

Every test has a state folder of its own kind (RESX_STATE), so no test meets a server that the user runs;
the cache folder is the user's, so that the Triton wheel is fetched once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from resx.card.card import Card
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Published, Repository
from resx.serving.client.address import Protocol
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState, running_server
from resx.serving.supervisor.detaching import serve_detached, stop
from resx.zoo.architectures import ResNetArchitecture
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec
from tests.support.command import Finished, Resx, WarmResx, run_resx


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


def tiny_spec(*, survival: float = 1.0, image_size: int = 16, classes: int = 10) -> ModelSpec:
    """A residual network of three blocks on small images: exported in about two seconds."""
    base = variant("resnet20").spec.with_changes(classes=classes, survival=survival)
    architecture = ResNetArchitecture(block="basic", stage_depths=(1, 1, 1), width=8, stem="cifar", shortcut="padding")
    return base.model_copy(
        update={"name": "tiny", "architecture": architecture, "image_size": image_size, "resize": image_size}
    )


def publish_tiny(
    repository: Repository,
    name: str,
    *,
    seed: int = 0,
    precision: str = "fp32",
    input_type: str = "uint8",
    classes: int = 10,
    max_batch_size: int = 4,
    image_endpoint: bool = False,
) -> tuple[Card, Published]:
    """Export and publish a tiny network with random weights."""
    from resx.card.origin import Source
    from resx.data.photographs import RealImages, photograph_crops
    from resx.export.pipeline import ExportOptions
    from resx.export.sources.source import LoadedSource, weights_sha256
    from resx.zoo.building import build_from_spec

    spec = tiny_spec(classes=classes)
    model = build_from_spec(spec, seed=seed).eval()
    source = LoadedSource(
        name=name,
        model=model,
        description=Source(kind="variant", spec=spec, weights="random", weights_sha256=weights_sha256(model)),
        real=RealImages(images=photograph_crops(8, spec.image_size, seed=0), origin="photographs"),
    )
    options = ExportOptions(precision=precision, input_type=input_type, max_batch_size=max_batch_size)  # type: ignore[arg-type]
    return export_into(
        repository, source, options, ServingOptions(image_endpoint=image_endpoint), name=name, command="a test"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTriton:
    """The embedded server and the repository that it serves."""

    repository: Repository

    @property
    def state(self) -> ServerState:
        """What is known of it now: on a busy machine its supervisor may have had to start it anew."""
        for _ in range(3000):
            state = running_server(self.repository)
            if state is not None and state.phase == "serving" and not state.recovering:
                return state
            time.sleep(0.1)
        raise TimeoutError(f"the server does not serve again: {state}")

    def client(self, protocol: Protocol = "grpc") -> TritonClient:
        return TritonClient(self.state.address(protocol), timeout_s=30)

    def url(self, protocol: Protocol = "grpc") -> str:
        return str(self.state.address(protocol))


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
