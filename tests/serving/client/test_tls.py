"""Remote servers: TLS, certificates of ours and headers, against a proxy in front of a real Triton."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resx.errors import MissingCapability, ResxError, UsageError
from resx.serving.client.address import PROTOCOLS, Access, Protocol, Tls, access, parse_address
from resx.serving.client.client import TritonClient
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tls_proxy import Certificates, make_certificates, tls_proxy

IMAGES = np.zeros((1, 3, 16, 16), np.uint8)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def port_of(triton: RunningTriton, protocol: Protocol) -> int:
    return triton.state.http_port if protocol == "http" else triton.state.grpc_port


def asked(url: str, shown: Access) -> int:
    with TritonClient(parse_address(url, None, shown=shown), timeout_s=20) as client:
        return client.infer("tiny", client.interface("tiny"), IMAGES).version


@pytest.mark.triton
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_behind_tls_is_asked_with_its_ca_and_our_headers(
    triton: RunningTriton, certificates: Certificates, protocol: Protocol, host: str
) -> None:
    seen: list[bytes] = []
    shown = Access(tls=Tls(ca=str(certificates.ca)), headers=(("x-tenant", "somebody-we-know"),))
    with tls_proxy(port_of(triton, protocol), certificates, seen=seen) as port:
        assert asked(f"{protocol}s://{host}:{port}", shown) == 1
    assert b"somebody-we-know" in b"".join(seen)


@pytest.mark.triton
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_wants_a_certificate_gets_ours(
    triton: RunningTriton, certificates: Certificates, protocol: Protocol
) -> None:
    ours = Tls(ca=str(certificates.ca), cert=str(certificates.client), key=str(certificates.client_key))
    with tls_proxy(port_of(triton, protocol), certificates, wants_client=True) as port:
        assert asked(f"{protocol}s://localhost:{port}", Access(tls=ours)) == 1
        with pytest.raises(MissingCapability):
            asked(f"{protocol}s://localhost:{port}", Access(tls=Tls(ca=str(certificates.ca))))


@pytest.mark.triton
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_wrong_with_a_connection_is_said(
    triton: RunningTriton, certificates: Certificates, protocol: Protocol
) -> None:
    with tls_proxy(port_of(triton, protocol), certificates) as port:
        secure, shown = f"{protocol}s://localhost:{port}", Access(tls=Tls(ca=str(certificates.ca)))
        for untrusted in (Access(tls=Tls(ca=str(certificates.other_ca))), Access()):
            with pytest.raises(MissingCapability, match=r"no secure connection \(CERTIFICATE_VERIFY_FAILED\); .*--ca"):
                asked(secure, untrusted)
        with pytest.raises(MissingCapability, match="for a server with TLS give grpcs:// or https://"):
            asked(f"{protocol}://localhost:{port}", shown)
    with pytest.raises(MissingCapability, match="if the server does not use TLS, give grpc:// or http://"):
        asked(f"{protocol}s://localhost:{port_of(triton, protocol)}", shown)


@pytest.mark.triton
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_commands_take_files_and_headers_from_the_environment(
    triton: RunningTriton, certificates: Certificates, protocol: Protocol, resx: Callable[..., Finished]
) -> None:
    seen: list[bytes] = []
    key = triton.state.address("grpc").control_key
    environment = {
        "RESX_TLS_CA": str(certificates.ca),
        "RESX_CONTROL_KEY": key,
        "RESX_HEADERS": "X-One: 1st\nx-two:2nd\n",
    }
    with tls_proxy(port_of(triton, protocol), certificates, seen=seen) as port:
        url = f"{protocol}s://127.0.0.1:{port}"
        done = resx(
            "deploy", "tiny", "--repository", triton.repository.root, "--url", url, "--trial=0", env=environment
        )
        assert done.code == 0, done.err
        assert f"✓ Deployed tiny v1 · on {url} · " in done.out
        given = ["--ca", certificates.ca, "--header", "x-three: 3rd", "--url", url]
        status = resx("status", *given, "--json", env={"RESX_CONTROL_KEY": key})
        assert status.code == 0, status.err
    sent = b"".join(seen)
    assert b"1st" in sent
    assert b"2nd" in sent
    assert b"3rd" in sent


def test_a_proxy_that_asks_who_we_are_is_understood() -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with (
            TritonClient(parse_address(f"http://127.0.0.1:{server.server_port}", None)) as client,
            pytest.raises(MissingCapability, match="RESX_HEADERS or --header"),
        ):
            client.server_version()
        server.shutdown()


def test_secrets_are_not_in_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_HEADERS", "authorization: Bearer hidden")
    monkeypatch.setenv("RESX_CONTROL_KEY", "hidden")
    address = parse_address("grpcs://a", None)
    assert address.headers == (("authorization", "Bearer hidden"),)
    assert "hidden" not in f"{address} {address!r} {access()!r}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ca": "/nowhere.pem"}, "--ca /nowhere.pem: no such file"),
        ({"cert": "a.pem"}, "a certificate needs its key; give --key too"),
        ({"key": "a.pem"}, "a certificate needs its key; give --cert too"),
        ({"headers": ["no colon"]}, "header 'no colon': give 'Name: value'"),
        ({"headers": ["a: b\rc: d"]}, "header 'a'"),
        ({"headers": ["naïve: 1"]}, "header 'naïve'"),
    ],
)
def test_what_cannot_be_shown_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as error:
        access(**given)  # type: ignore[arg-type]
    assert said in str(error.value)


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "junk").write_text("junk")
    for tls in ({"ca": "junk"}, {"cert": "junk", "key": "junk"}):
        with pytest.raises(UsageError, match="cannot be used for TLS"):
            Tls(**{option: str(tmp_path / name) for option, name in tls.items()})
    with pytest.raises(UsageError, match="cannot be used for TLS"):
        Tls(cert=str(certificates.client), key=str(certificates.server_key))


def test_files_for_a_connection_in_the_clear_are_a_mistake(
    certificates: Certificates, resx: Callable[..., Finished]
) -> None:
    done = resx("status", "--url", "http://127.0.0.1:1", "--ca", certificates.ca)
    assert done.code == 2
    assert "is not encrypted, so --ca, --cert and --key have no effect" in done.err


@pytest.mark.parametrize(("url", "port"), [("grpcs://a", 443), ("https://a", 443), ("https://a:8443/", 8443)])
def test_secure_addresses(url: str, port: int) -> None:
    address = parse_address(url, None)
    assert (address.host_port, address.tls) == (f"a:{port}", Tls())
    with pytest.raises(ResxError, match="contradicts"):
        parse_address(url, "http" if url.startswith("grpc") else "grpc")
