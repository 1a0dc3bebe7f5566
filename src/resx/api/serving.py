"""Serving: the embedded Triton for the length of a `with` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resx.api.client import Client
from resx.api.places import repository_at
from resx.errors import UsageError
from resx.names import choose
from resx.repository.versions import DEFAULT, Repository

if TYPE_CHECKING:
    from resx.gpus import Wish
    from resx.serving.client.address import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """An embedded Triton that is ready: every model that it loaded has passed its self-test."""

    repository: Repository
    url: str
    """Of gRPC: `grpc://127.0.0.1:PORT`."""
    http_url: str
    metrics_url: str
    """For Prometheus."""
    log: Path

    def client(self, *, protocol: Protocol = "grpc", retries: int = 0) -> Client:
        """Return a client for it; close it before the `with` block of the server ends."""
        url = self.url if protocol == "grpc" else self.http_url
        return Client(url, repository=self.repository, protocol=protocol, retries=retries)


@contextlib.contextmanager
def serve(
    *names: str,
    repository: Repository | Path | str = DEFAULT,
    device: Wish = "auto",
    native: bool = False,
    http_port: int = 0,
    grpc_port: int = 0,
    metrics_port: int = 0,
) -> Iterator[Server]:
    """Serve models on loopback until the `with` block ends, as `resx serve --detach` and `resx stop` do.

    The server is a process of its own, which is supervised: what crashes is brought back. It outlives a Python that
    is killed; `resx stop` ends it then.

    Args:
        names: models of the repository. Default: all.
        repository: the model repository.
        device: `auto`, `cpu` or `gpu`.
        native: compute in the server itself: faster for small models; a crash stops the whole server.
        http_port: 0, here and below: any free port.
        grpc_port: of gRPC.
        metrics_port: of Prometheus's metrics.

    Yields:
        The server, ready: its addresses, and `client()`.

    Raises:
        UsageError: a model is not in the repository, the repository is served already, or a port is taken.
        MissingCapability: the server, a runtime or the GPU is missing.
        ParityError: a model fails its self-test.
        ServerError: the server ended before it was ready; the message is its last line.
    """
    from resx.gpus import WISHES
    from resx.serving.embedded.devices import require_tensorrt_for
    from resx.serving.embedded.installation.python_stub import computes_natively
    from resx.serving.embedded.model_runtime import require_servable
    from resx.serving.embedded.server_ports import Ports
    from resx.serving.supervisor.detaching import serve_detached, stop

    published, wish = repository_at(repository), choose("device", device, WISHES)
    if not published.root.is_dir():
        raise UsageError(f"{published.root}: no such model repository; create one with resx.export")
    for name in names:
        published.version_folder(name)
    models = list(names) or None
    require_servable(published, models, wish)
    require_tensorrt_for([published.root / name for name in models or published.names()], wish)
    how = "--native" if computes_natively(native or None) else "--isolated"
    state = serve_detached(
        published,
        Ports(http=http_port, grpc=grpc_port, metrics=metrics_port),
        [*(f"--load={name}" for name in names), f"--device={wish}", how],
    )
    try:
        yield Server(
            repository=published,
            url=str(state.address("grpc")),
            http_url=str(state.address("http")),
            metrics_url=f"http://127.0.0.1:{state.metrics_port}/metrics",
            log=Path(state.log),
        )
    finally:
        stop(published)
