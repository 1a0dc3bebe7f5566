"""Which server a command speaks to, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias

import typer

from resx.cli.command_lines import command_line, in_repository
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.options.validation import choose

if TYPE_CHECKING:
    from resx.serving.client.address import Address

_option = partial(typer.Option, rich_help_panel="Server")
OF_A_SERVER = ("protocol", "ca", "cert", "key", "header")
"""Options that mean nothing without a server, beside its URL."""

Url: TypeAlias = Annotated[
    str,
    _option(
        metavar="URL",
        help="host:port, or grpc://, grpcs://, http:// or https:// and host:port. "
        "Default: the server that `resx serve` runs for the repository.",
    ),
]
Urls: TypeAlias = Annotated[
    str,
    _option(
        metavar="URL[,URL...]",
        help="host:port, or grpc://, grpcs://, http:// or https:// and host:port. Several are changed one after "
        "another, all or none. Default: the server that `resx serve` runs for the repository.",
    ),
]
ProtocolName: TypeAlias = Annotated[
    str, _option("--protocol", metavar="[grpc|http]", help="Protocol of the requests. Default: grpc.")
]
LoadProtocolName: TypeAlias = Annotated[
    str,
    _option(
        "--protocol",
        metavar="[http|grpc]",
        help="Default: http, which costs the client less; grpc for a --url without http://.",
    ),
]
Ca: TypeAlias = Annotated[str, _option("--ca", metavar="FILE", help="CA of a grpcs:// or https:// server.")]
Cert: TypeAlias = Annotated[str, _option("--cert", metavar="FILE", help="Client certificate, with --key.")]
Key: TypeAlias = Annotated[str, _option("--key", metavar="FILE", help="Private key for --cert.")]
Header: TypeAlias = Annotated[
    list[str] | None,
    _option(
        "--header",
        metavar="'NAME: VALUE'",
        help="Sent with every request, repeatable. Secrets: RESX_HEADERS, a line each.",
    ),
]

Retries: TypeAlias = Annotated[
    int, _option(min=0, max=100, metavar="N", help="Retries after a lost connection; 8 take up to 9 seconds.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAccess:
    """How to speak to a server; empty texts where nothing was typed."""

    usual_protocol: ClassVar[str] = ""
    """Of a server that is named by no URL; empty: the client's own choice."""

    protocol: ProtocolName = ""
    header: Header = None
    ca: Ca = ""
    cert: Cert = ""
    key: Key = ""

    def address(self, url: str, repository: Path) -> Address:
        """Return the address of `url`; if that is empty of the repository's own server, or the default port.

        Raises:
            UsageError: the URL or the protocol is malformed, or a file or header cannot be used.
        """
        from resx.repository.versions import Repository
        from resx.serving.client.address import PROTOCOLS, access
        from resx.serving.running.server_address import find_address

        protocol = self.protocol or ("" if url else self.usual_protocol)
        wanted = choose("--protocol", protocol, PROTOCOLS) if protocol else None
        shown = access(self.ca, self.cert, self.key, self.header or ())
        has_tls_files = bool(self.ca or self.cert or self.key)
        return find_address(url, Repository(repository), wanted, shown, has_tls_files=has_tls_files)


USUAL_ACCESS = ServerAccess()
"""Nothing typed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadAccess(ServerAccess):
    """How to speak to a server that is measured."""

    usual_protocol: ClassVar[str] = "http"

    protocol: LoadProtocolName = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """Which server."""

    repository: RepositoryPath = DEFAULT_REPOSITORY
    url: Url = ""
    access: ServerAccess = USUAL_ACCESS

    def address(self, url: str = "") -> Address:
        """Return the address of `url`, or of the server that was typed."""
        return self.access.address(url or self.url, self.repository)

    def command(self, *words: str, url: str = "") -> str:
        """Return a command of resx for the same repository and server; `url`: another one.

        It is empty where the command would need a header that was typed: that may be a secret.
        """
        if self.access.header:
            return ""
        names = [name for name in OF_A_SERVER if name != "header"]
        access = {"url": url or self.url} | {name: str(getattr(self.access, name)) for name in names}
        typed = [word for name, value in access.items() if value for word in (f"--{name}", value)]
        return command_line(*words, *in_repository(self.repository), *typed)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadConnection(Connection):
    """Which server is measured."""

    access: LoadAccess = LoadAccess()


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetConnection(Connection):
    """One server, or several."""

    url: Urls = ""
