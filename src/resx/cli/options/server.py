"""How the embedded server is started, and what brings it back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import finite

if TYPE_CHECKING:
    from resx.serving.embedded.server_ports import Ports
    from resx.serving.supervisor.policy import Policy

_ports_option = partial(typer.Option, rich_help_panel="Ports")
_recovery_option = partial(typer.Option, rich_help_panel="Recovery")
_port = partial(_ports_option, min=0, max=65535, metavar="N")

Host: TypeAlias = Annotated[
    str,
    _ports_option(
        metavar="ADDRESS", help="Address to listen on: only 127.0.0.1; for remote access see docs/security.md."
    ),
]
HttpPort: TypeAlias = Annotated[int, _port(help="HTTP port; 0: any free port.")]
GrpcPort: TypeAlias = Annotated[int, _port(help="gRPC port; 0: any free port.")]
MetricsPort: TypeAlias = Annotated[int, _port(help="Metrics port; 0: any free port.")]
ExitTimeout: TypeAlias = Annotated[
    int, _recovery_option(min=1, metavar="SECONDS", help="Shutdown grace period, in seconds.")
]
Tries: TypeAlias = Annotated[
    int,
    _recovery_option(
        min=1, metavar="N", help="Failed recoveries in a row before a model is set aside, or the server gives up."
    ),
]
CanaryTimeout: TypeAlias = Annotated[
    float,
    _recovery_option(
        min=1,
        callback=finite,
        metavar="SECONDS",
        help="Restart if a busy model completes nothing for this many seconds.",
    ),
]
Native: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--native/--isolated",
        metavar="",
        help="Compute in the server itself: about 20 % faster for small models; a crash stops the whole server. "
        "Compiled at first use. Default: isolated, where Triton can run this Python.",
        show_default=False,
    ),
]
ServingDevice: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="[auto|cpu|gpu]", help="auto: the GPU if there is one; exits with an error if it cannot be used."
    ),
]
ServerDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Serve with another Triton's files, laid out as in NVIDIA's container: bin/, backends/, lib/. "
        "Default: resx's own.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PortOptions:
    """Where the server listens."""

    host: Host = "127.0.0.1"
    http_port: HttpPort = 8000
    grpc_port: GrpcPort = 8001
    metrics_port: MetricsPort = 8002

    def ports(self) -> Ports:
        """Return the ports.

        Raises:
            UsageError: the host is another than loopback.
        """
        from resx.serving.embedded.server_ports import Ports, require_loopback

        require_loopback(self.host)
        return Ports(http=self.http_port, grpc=self.grpc_port, metrics=self.metrics_port)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryOptions:
    """When the server, or a model, counts as dead, and how it ends."""

    exit_timeout: ExitTimeout = 10
    tries: Tries = 5
    canary_timeout: CanaryTimeout = 10.0

    def policy(self) -> Policy:
        """Return what the supervisor goes by."""
        from resx.serving.supervisor.policy import Policy

        return Policy(exit_timeout_s=self.exit_timeout, max_tries=self.tries, canary_timeout_s=self.canary_timeout)

    def arguments(self) -> list[str]:
        """Return the options for another `resx serve`."""
        return [
            f"--exit-timeout={self.exit_timeout}",
            f"--tries={self.tries}",
            f"--canary-timeout={self.canary_timeout}",
        ]
