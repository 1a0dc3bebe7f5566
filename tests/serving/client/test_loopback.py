"""Loopback: what it is, that no proxy is asked for it, and that every one of its addresses is tried."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.cli.options.connection import USUAL_ACCESS
from resx.errors import MissingCapability, UsageError
from resx.serving.client.address import parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import connect, grpc_options, grpc_proxy, is_loopback, means_embedded
from resx.serving.embedded.server_ports import require_loopback
from resx.serving.running.server_state import server_at
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, str], list[bytes]]]:
    """A proxy that refuses all and keeps what it is asked; the environment that names it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    asked, _ = listening.accept()
                except OSError:
                    return
                with asked:
                    heard.append(asked.recv(4096))
                    asked.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://user:secret@127.0.0.1:{listening.getsockname()[1]}"
        environment = {name: url for variable in PROXIES for name in (variable, variable.upper())}
        environment |= {"no_proxy": "", "NO_PROXY": ""}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name in ("no_grpc_proxy", "NO_GRPC_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield environment, heard
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.2",
        "127.1",
        "localhost",
        "LocalHost",
        "localhost.",
        "a.localhost",
        "ip6-localhost",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "0.0.0.0",
    ],
)
def test_what_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["128.0.0.1", "10.0.0.1", "localhost.example.com", "notlocalhost", "127.example.com", "::2", "fe80::1%lo"]
)
def test_what_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_where_somebody_else_may_listen_is_not_the_embedded_servers() -> None:
    named = ("127.0.0.1", "127.1", "localhost", "LOCALHOST", "localhost.", "ip6-localhost")
    assert all(means_embedded(host) for host in named)
    assert not any(means_embedded(host) for host in ("::1", "127.0.0.2", "0.0.0.0", "example.com"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "192.0.2.1", "example.com"])
def test_the_embedded_server_is_asked_to_listen_nowhere_else(host: str) -> None:
    with pytest.raises(UsageError, match="listens on 127.0.0.1 only"):
        require_loopback(host)


@pytest.mark.triton
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.1", "ip6-localhost", "127.0.0.1"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_however_loopback_is_written_the_own_server_is_known(triton: RunningTriton, host: str, protocol: str) -> None:
    port = triton.state.grpc_port if protocol == "grpc" else triton.state.http_port

    address = USUAL_ACCESS.address(f"{protocol}://{host}:{port}", triton.repository.root)

    assert server_at(f"{host}:{port}") == triton.state
    assert address.control_key
    with TritonClient(address, timeout_s=30) as client:
        assert "tiny" in client.model_versions()


@pytest.mark.triton
@pytest.mark.parametrize("host", ["[::1]", "127.0.0.2"])
def test_another_address_of_loopback_is_not_shown_the_key(triton: RunningTriton, host: str) -> None:
    assert USUAL_ACCESS.address(f"{host}:{triton.state.grpc_port}", triton.repository.root).control_key == ""
    assert server_at(f"{host}:{triton.state.grpc_port}") is None


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_proxy_is_asked_for_loopback(
    triton: RunningTriton,
    proxy: tuple[dict[str, str], list[bytes]],
    resx: Callable[..., Finished],
    tmp_path: Path,
    protocol: str,
) -> None:
    environment, heard = proxy
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "black.png")
    where = ["--repository", triton.repository.root]
    port = triton.state.grpc_port if protocol == "grpc" else triton.state.http_port
    for command in (
        ["deploy", "tiny", *where, "--url", f"{protocol}://localhost:{port}"],
        ["query", "tiny", "black.png", *where, "--protocol", protocol],
        ["status", *where],
        ["bench", "tiny", *where, "--protocol", protocol, "--concurrency", "1", "--duration", "0.3", "--warmup", "0.1"],
    ):
        done = resx(*command, env=environment)
        assert done.code == 0, done.err
    assert heard == []


@pytest.mark.triton
def test_a_server_starts_where_a_proxy_is_set(
    triton: RunningTriton, proxy: tuple[dict[str, str], list[bytes]], resx: Callable[..., Finished], tmp_path: Path
) -> None:
    environment, heard = proxy
    (tmp_path / "model_repository").mkdir()
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]

    started = resx("serve", "--detach", *ports, env=environment)
    stopped = resx("stop", env=environment)

    assert (started.code, stopped.code) == (0, 0), started.err
    assert heard == []


def test_a_remote_server_is_asked_through_the_proxy_and_its_failure_names_it(
    proxy: tuple[dict[str, str], list[bytes]],
) -> None:
    environment, heard = proxy
    shown = environment["grpc_proxy"].replace("user:secret@", "")

    with (
        pytest.raises(MissingCapability, match=f"through the proxy {shown} .grpc_proxy.*no_proxy") as refused,
        TritonClient(parse_address("192.0.2.1:8001", "grpc"), timeout_s=20) as client,
    ):
        client.server_version()

    assert heard
    assert heard[0].startswith(b"CONNECT 192.0.2.1:8001")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "proxied"),
    [
        ({"http_proxy": "http://p:1"}, "http://p:1 (http_proxy)"),
        ({"http_proxy": "http://p:1", "https_proxy": "http://q:2"}, "http://q:2 (https_proxy)"),
        ({"http_proxy": "http://p:1", "grpc_proxy": ""}, ""),
        ({"HTTP_PROXY": "http://p:1", "all_proxy": "http://p:1"}, ""),
        ({"http_proxy": "socks5://p:1"}, ""),
        ({"http_proxy": "http://p:1", "no_proxy": "other, example.com"}, ""),
        ({"http_proxy": "http://p:1", "no_proxy": "example.com", "no_grpc_proxy": ""}, "http://p:1 (http_proxy)"),
    ],
)
def test_the_proxy_that_grpc_takes(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxied: str) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert grpc_proxy("triton.example.com:8001") == proxied
    assert grpc_proxy("localhost:8001") == ""


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_name_of_loopback_is_tried_at_both_addresses(
    monkeypatch: pytest.MonkeyPatch, family: int, address: str
) -> None:
    """Also where the hosts file gives it the other one alone."""
    real, other = socket.getaddrinfo, {"127.0.0.1": "::1", "::1": "127.0.0.1"}[address]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **named: real(other if host == "localhost" else host, *rest, **named)
    )
    with socket.socket(family) as listening:
        try:
            listening.bind((address, 0))
        except OSError as error:
            pytest.skip(f"{address}: {error.strerror}")
        listening.listen()

        connect("localhost", listening.getsockname()[1], 20).close()


def test_grpc_is_told_to_pass_a_proxy_by_for_loopback_alone() -> None:
    assert grpc_options("127.0.0.1:8001") == grpc_options("[::1]:8001") == [("grpc.enable_http_proxy", 0)]
    assert grpc_options("gpu1.example.com:8001") == []
