"""A proxy that ends TLS, as nginx or Envoy would in front of a Triton, and certificates for it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificates:
    """PEM files."""

    ca: Path
    other_ca: Path
    """Which signed none of the others."""
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make two CAs, a certificate for localhost and 127.0.0.1 and one for a client, with openssl."""
    for name in ("ca", "other"):
        _openssl(
            folder,
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        )
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        _openssl(
            folder,
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
        )
        _openssl(
            folder,
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            "names",
            "-out",
            f"{name}.pem",
        )
    return Certificates(
        ca=folder / "ca.pem",
        other_ca=folder / "other.pem",
        server=folder / "server.pem",
        server_key=folder / "server.key",
        client=folder / "client.pem",
        client_key=folder / "client.key",
    )


@contextlib.contextmanager
def tls_proxy(
    target_port: int, certificates: Certificates, *, wants_client: bool = False, seen: list[bytes] | None = None
) -> Iterator[int]:
    """Give a port on loopback where TLS ends; bytes pass to and from `target_port`, h2 is agreed on if asked for.

    Args:
        target_port: of the server in the clear.
        certificates: its own, and the CA that signs clients'.
        wants_client: refuse clients without a certificate.
        seen: gets what clients send, in the clear.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if wants_client:
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    threads: list[threading.Thread] = []
    halt = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)

        def accept() -> None:
            while not halt.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listening.accept()
                    thread = threading.Thread(target=_serve, args=(connection, context, target_port, halt, seen))
                    threads.append(thread)
                    thread.start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listening.getsockname()[1]
        finally:
            halt.set()
            accepting.join(10)
            for thread in threads:
                thread.join(10)


def _serve(
    connection: socket.socket,
    context: ssl.SSLContext,
    target_port: int,
    halt: threading.Event,
    seen: list[bytes] | None,
) -> None:
    connection.settimeout(10)
    with (
        contextlib.suppress(OSError),
        connection,
        context.wrap_socket(connection, server_side=True) as secure,
        socket.create_connection(("127.0.0.1", target_port)) as target,
    ):
        secure.setblocking(False)
        target.setblocking(False)
        while not halt.is_set():
            data, back = _read(secure), _read(target)
            if data and seen is not None:
                seen.append(data)
            if b"" in (data, back):
                return
            for sink, part in ((target, data), (secure, back)):
                if part:
                    sink.settimeout(10)
                    sink.sendall(part)
                    sink.setblocking(False)
            if data is None and back is None:
                halt.wait(0.002)


def _read(source: socket.socket) -> bytes | None:
    """Return what is there, None if nothing is yet."""
    try:
        return source.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
