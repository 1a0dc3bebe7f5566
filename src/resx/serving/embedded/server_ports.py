"""The ports of an embedded server, and that it is reached on loopback alone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from resx.errors import UsageError
from resx.serving.client.loopback import LOOPBACK, means_embedded
from resx.serving.embedded.installation.triton_installation import TRITON_VERSION


def require_loopback(host: str) -> None:
    """Check that the embedded server is asked to listen where it listens.

    Raises:
        UsageError: elsewhere.
    """
    if not means_embedded(host):
        raise UsageError(
            f"--host {host}: the embedded Triton listens on {LOOPBACK} only, because {TRITON_VERSION} lacks two years "
            "of security fixes; for remote access use the container behind a TLS proxy (docs/security.md)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """The ports on loopback; 0 takes any free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    def resolved(self) -> Ports:
        """Return these ports, with a free one for every 0.

        Raises:
            UsageError: a port is taken, or the same port is given twice.
        """
        with self.held() as ports:
            return ports

    @contextlib.contextmanager
    def held(self) -> Iterator[Ports]:
        """Give these ports, with a free one for every 0, and keep them from being handed to anybody else.

        They are bound but not listened on, so a server that allows reuse of addresses, as Triton does, can have
        them, again and again. Without that a client that tries a dead server's port may be given that very port
        for its own end, connect to itself, and keep the next server out.

        Raises:
            UsageError: a port is taken, or the same port is given twice.
        """
        given = [port for port in (self.http, self.grpc, self.metrics) if port]
        if len(set(given)) < len(given):
            raise UsageError(f"ports {', '.join(map(str, given))}: give three different ones")
        with contextlib.ExitStack() as sockets:
            numbers = []
            for what, port in (("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)):
                bound = sockets.enter_context(socket.socket())
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    bound.bind((LOOPBACK, port))
                except OSError as error:
                    raise UsageError(
                        f"--{what}-port {port}: {error.strerror}; choose another, or 0 for any free port"
                    ) from error
                numbers.append(bound.getsockname()[1])
            http, grpc, metrics = numbers
            yield Ports(http=http, grpc=grpc, metrics=metrics)
