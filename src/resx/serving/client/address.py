"""Where a server listens, and what it wants to be shown: TLS, headers, the control key.

Secrets come from the environment, as whoever may list processes reads the words of a command:

    RESX_CONTROL_KEY                           opens loading and unloading
    RESX_HEADERS                               `Name: value`, one per line, sent with every request
    RESX_TLS_CA, RESX_TLS_CERT, RESX_TLS_KEY   files in PEM: who is trusted, and who asks
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from resx.errors import UsageError
from resx.text import one_line

Protocol: TypeAlias = Literal["grpc", "http"]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")
DEFAULT_PORTS: dict[Protocol, int] = {"grpc": 8001, "http": 8000}
TLS_PORT = 443
CONTROL_KEY_VARIABLE = "RESX_CONTROL_KEY"
CONTROL_HEADER = "resx-control-key"
HEADERS_VARIABLE = "RESX_HEADERS"
CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE = "RESX_TLS_CA", "RESX_TLS_CERT", "RESX_TLS_KEY"
_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "http": ("http", False),
    "grpcs": ("grpc", True),
    "https": ("http", True),
}
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e]*[\x21-\x7e])[ \t]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """Whom a secure connection trusts and who it says it is: paths of PEM files; empty means the system's, or none."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            given, other = ("--cert", "--key") if self.cert else ("--key", "--cert")
            raise UsageError(f"{given} {self.cert or self.key}: a certificate needs its key; give {other} too")
        for option, path in (("--ca", self.ca), ("--cert", self.cert), ("--key", self.key)):
            if path and not Path(path).is_file():
                raise UsageError(f"{option} {path}: no such file; give a PEM file")
        try:
            _ = self.context() if self.ca or self.cert else None
        except (ssl.SSLError, OSError) as error:
            files = ", ".join(path for path in (self.ca, self.cert, self.key) if path)
            raise UsageError(
                f"{files}: cannot be used for TLS ({_reason(error)}); give a CA, or a certificate and its unencrypted "
                "key, in PEM"
            ) from error

    def context(self) -> ssl.SSLContext:
        """Return what HTTPS needs; without a CA it trusts whom the system trusts."""
        context = ssl.create_default_context(cafile=self.ca or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        return context

    def grpc_credentials(self) -> Any:
        """Return what a gRPC channel needs; without a CA it trusts what the system's HTTPS clients trust."""
        import grpc

        ca = self.ca or ssl.get_default_verify_paths().cafile
        return grpc.ssl_channel_credentials(
            *(Path(path).read_bytes() if path else None for path in (ca, self.key, self.cert))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What a server, or the proxy in front of it, wants to be shown."""

    tls: Tls = field(default_factory=Tls)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a server listens and how it is spoken to."""

    host_port: str
    protocol: Protocol
    control_key: str = field(default="", repr=False)
    """Opens the restricted APIs (load, unload, shared memory) of a server started by resx."""
    tls: Tls | None = None
    """None: in the clear."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with every request; names in lower case."""

    def __str__(self) -> str:
        return f"{self.protocol}{'s' if self.tls else ''}://{self.host_port}"


def access(ca: str = "", cert: str = "", key: str = "", headers: Sequence[str] = ()) -> Access:
    """Return what the options say, and what the environment says where they say nothing.

    Raises:
        UsageError: a file cannot be used, or a header is not `Name: value`.
    """
    lines = [*os.environ.get(HEADERS_VARIABLE, "").splitlines(), *headers]
    tls = Tls(
        ca=ca or os.environ.get(CA_VARIABLE, ""),
        cert=cert or os.environ.get(CERT_VARIABLE, ""),
        key=key or os.environ.get(KEY_VARIABLE, ""),
    )
    return Access(tls=tls, headers=tuple(_header(line) for line in lines if line.strip()))


def parse_address(
    url: str, protocol: Protocol | None, *, control_key: str | None = None, shown: Access | None = None
) -> Address:
    """Read `host:port`, or a URL with grpc, http, grpcs or https; without a scheme `protocol` or grpc holds.

    The control key, and what is to be shown, are taken from the environment if they are not given.

    Raises:
        UsageError: the address has no host, a port that is no port, or a scheme that contradicts `protocol`.
    """
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme not in _SCHEMES:
        raise UsageError(
            f"--url {url}: give host:port, or one of {', '.join(f'{word}://host:port' for word in _SCHEMES)}"
        )
    spoken, secure = _SCHEMES.get(scheme, (protocol or "grpc", False))
    if separator and protocol and spoken != protocol:
        raise UsageError(f"--url {url}: contradicts --protocol {protocol}; remove one of the two")
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not colon:
        host, port = rest.rstrip("/"), str(TLS_PORT if secure else DEFAULT_PORTS[spoken])
    readable = bool(host) and one_line(host) == host and not set(host) & set("/@, ?#")
    if not readable or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--url {url}: give host:port with a port from 1 to 65535")
    known = shown or access()
    key = os.environ.get(CONTROL_KEY_VARIABLE, "") if control_key is None else control_key
    host = f"[{host.strip('[]')}]" if ":" in host else host
    return Address(
        host_port=f"{host}:{port}",
        protocol=spoken,
        control_key=key,
        tls=known.tls if secure else None,
        headers=known.headers,
    )


def _header(line: str) -> tuple[str, str]:
    if not (found := _HEADER.fullmatch(line.strip())):
        name = line.partition(":")[0].strip()
        raise UsageError(
            f"header {name!r}: give 'Name: value' in ASCII, as in RESX_HEADERS='Authorization: Bearer ...'"
        )
    return found[1].lower(), found[2]


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
