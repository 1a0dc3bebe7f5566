"""deploy/proxy/nginx.conf, run by a real nginx in front of a real Triton: what passes, and what does not."""

import contextlib
import gzip
import http.client
import json
import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resx.serving.client.address import CONTROL_HEADER
from resx.serving.client.loopback import LOOPBACK
from resx.serving.embedded.server_ports import Ports
from tests.support import debian
from tests.support.running_triton import RunningTriton

pytestmark = pytest.mark.triton
CONFIGURATION = Path(__file__).parents[2] / "deploy/proxy/nginx.conf"
TOKEN = {"authorization": "Bearer a-long-random-text"}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """A running nginx."""

    port: int
    certificate: Path
    log: Path

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = TOKEN
    ) -> tuple[int, bytes]:
        """Send the path as it is, which a careful client would not."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection(LOOPBACK, self.port, context=context, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def grpc(self) -> Any:
        import tritonclient.grpc

        return tritonclient.grpc.InferenceServerClient(
            f"{LOOPBACK}:{self.port}", ssl=True, root_certificates=str(self.certificate)
        )


@pytest.fixture(scope="module")
def proxy(triton: RunningTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    nginx, openssl = debian.program("nginx", "usr/sbin/nginx"), debian.program("openssl", "usr/bin/openssl")
    folder = tmp_path_factory.mktemp("proxy")
    certificate, key = folder / "server.crt", folder / "server.key"
    subprocess.run(
        [
            str(openssl),
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            f"subjectAltName=IP:{LOOPBACK}",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
        env=debian.environment(openssl),
    )
    (folder / "tokens.map").write_text(f'"{TOKEN["authorization"]}" tests;\n')
    port = Ports(http=0, grpc=0, metrics=0).resolved().http
    text = CONFIGURATION.read_text()
    changes = {
        "/etc/resx/": f"{folder}/", "/run/resx-nginx/": f"{folder}/run/",
        "/var/lib/resx-nginx/": f"{folder}/state/", "listen 8443": f"listen {LOOPBACK}:{port}",
        "127.0.0.1:8000": f"{LOOPBACK}:{triton.state.http_port}",
        "127.0.0.1:8001": f"{LOOPBACK}:{triton.state.grpc_port}",
        "worker_processes auto": "daemon off; worker_processes 1", "/dev/stdout": str(folder / "access.log"),
    }  # fmt: skip
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    (folder / "nginx.conf").write_text(text)
    for name in ("run", "state"):
        (folder / name).mkdir(mode=0o711)
    folder.chmod(0o755)
    # Started by root its workers are somebody else, who may not look into pytest's folders.
    as_oneself = ["-g", "user root;"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(nginx), "-e", "stderr", *as_oneself, "-c", str(folder / "nginx.conf"), "-p", str(folder)],
            stdout=log, stderr=log, env=debian.environment(nginx),
        )  # fmt: skip
    proxy = Proxy(port=port, certificate=certificate, log=folder / "access.log")
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                proxy.ask("GET", "/v2/health/live")
                break
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield proxy
    finally:
        process.terminate()
        process.wait(20)


def infer_body() -> bytes:
    tensor = {"name": "image", "shape": [2, 3, 16, 16], "datatype": "UINT8", "data": IMAGES.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def test_inference_metadata_and_health_pass_over_http(proxy: Proxy, triton: RunningTriton) -> None:
    with triton.client() as client:
        direct = client.infer("tiny", client.interface("tiny"), IMAGES).logits
    for path in ("/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"):
        status, body = proxy.ask("POST", path, infer_body())
        assert status == 200, body
        np.testing.assert_allclose(np.reshape(json.loads(body)["outputs"][0]["data"], (2, 10)), direct, rtol=1e-5)
    for path in (
        "/v2",
        "/v2/health/live",
        "/v2/models/tiny",
        "/v2/models/tiny/ready",
        "/v2/models/tiny/config",
        "/v2/models/tiny/versions/1/ready",
    ):
        assert proxy.ask("GET", path)[0] == 200, path
    # 400 is Triton's own no: another test may have left a model of this server that did not load.
    assert proxy.ask("GET", "/v2/health/ready")[0] in {200, 400}


def test_inference_metadata_and_health_pass_over_grpc(proxy: Proxy, triton: RunningTriton) -> None:
    import tritonclient.grpc

    with triton.client() as client:
        direct = client.infer("tiny", client.interface("tiny"), IMAGES).logits
    image = tritonclient.grpc.InferInput("image", [2, 3, 16, 16], "UINT8")
    image.set_data_from_numpy(IMAGES)
    with proxy.grpc() as client:
        np.testing.assert_allclose(client.infer("tiny", [image], headers=TOKEN).as_numpy("logits"), direct, rtol=1e-5)
        assert client.is_server_live(headers=TOKEN)
        assert client.is_model_ready("tiny", headers=TOKEN)
        assert client.get_server_metadata(headers=TOKEN).name == "triton"
        assert client.get_model_metadata("tiny", headers=TOKEN).name == "tiny"
        assert client.get_model_config("tiny", headers=TOKEN).config.name == "tiny"


CONTROL = [
    "/v2/repository/index", "/v2/repository/models/tiny/load", "/v2/repository/models/tiny/unload",
    "/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/x/register", "/v2/cudasharedmemory/status",
    "/v2/trace/setting", "/v2/models/tiny/trace/setting", "/v2/logging", "/v2/models/stats", "/metrics", "/",
    # Disguises.
    "/v2/models/tiny/infer/../../../repository/index", "/v2/models/../repository/index", "/v2//repository/index",
    "/v2/%72epository/index", "/v2/models/%2e%2e/repository/index", "/v2/models/tiny%2f..%2f..%2frepository/index",
    "/V2/repository/index", "/v2/repository/index?x=/v2/health/live", "/v2/repository/index#/v2/health/live",
    "/v2/models/tiny/generate", "/v2/models/tiny/infer%00/x",
]  # fmt: skip


@pytest.mark.parametrize("path", CONTROL)
def test_control_does_not_pass_over_http_even_with_the_key(proxy: Proxy, triton: RunningTriton, path: str) -> None:
    headers = TOKEN | {CONTROL_HEADER: triton.state.address("http").control_key}
    for method, body in (("GET", None), ("POST", b"{}")):
        assert proxy.ask(method, path, body, headers)[0] in {400, 403}


def test_what_reaches_triton_is_the_path_that_was_allowed(proxy: Proxy, triton: RunningTriton) -> None:
    """Without its normal form the first path would reach Triton as a control call."""
    headers = TOKEN | {CONTROL_HEADER: triton.state.address("http").control_key}
    path = "/v2/repository/models/tiny/unload/../../../../models/tiny/infer"
    status, _ = proxy.ask("POST", path, infer_body(), headers)
    assert status == 200
    assert proxy.ask("GET", "/v2/models/tiny/ready?/../../repository/index")[0] == 200
    with triton.client() as client:
        assert 1 in client.model_versions()["tiny"]


def test_control_does_not_pass_over_grpc_even_with_the_key(proxy: Proxy, triton: RunningTriton) -> None:
    from tritonclient.utils import InferenceServerException

    headers = TOKEN | {f"triton-grpc-protocol-{CONTROL_HEADER}": triton.state.address("grpc").control_key}
    calls = [
        ("load_model", "tiny"), ("unload_model", "tiny"), ("get_model_repository_index",),
        ("register_system_shared_memory", "x", "/x", 64), ("get_system_shared_memory_status",),
        ("get_cuda_shared_memory_status",), ("update_trace_settings", "tiny", {"trace_rate": "1"}),
        ("get_log_settings",), ("get_inference_statistics",),
    ]  # fmt: skip
    with proxy.grpc() as client:
        for call, *arguments in calls:
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                getattr(client, call)(*arguments, headers=headers)
    with triton.client() as client:
        assert "tiny" in client.model_versions()


def test_the_control_key_is_taken_off_what_passes(proxy: Proxy, triton: RunningTriton) -> None:
    text = CONFIGURATION.read_text()
    assert f'proxy_set_header {CONTROL_HEADER} "";' in text
    assert f'grpc_set_header triton-grpc-protocol-{CONTROL_HEADER} "";' in text


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": ""}])
def test_without_a_token_nothing_passes(proxy: Proxy, headers: dict[str, str]) -> None:
    from tritonclient.utils import InferenceServerException

    for path in ("/v2/health/live", "/v2/repository/index"):
        assert proxy.ask("GET", path, headers=headers)[0] == 401
    assert proxy.ask("POST", "/v2/models/tiny/infer", infer_body(), headers)[0] == 401
    with proxy.grpc() as client, pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
        client.get_server_metadata(headers=headers)


def test_too_large_or_packed_requests_are_refused_before_triton_sees_them(proxy: Proxy) -> None:
    import tritonclient.grpc
    from tritonclient.utils import InferenceServerException

    context = ssl.create_default_context(cafile=str(proxy.certificate))
    connection = http.client.HTTPSConnection(LOOPBACK, proxy.port, context=context, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v2/models/tiny/infer")
        for name, value in (TOKEN | {"content-length": str(4 * 2**30)}).items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == 413
    packed = gzip.compress(infer_body())
    assert proxy.ask("POST", "/v2/models/tiny/infer", packed, TOKEN | {"content-encoding": "gzip"})[0] == 415
    image = tritonclient.grpc.InferInput("image", [90_000, 3, 16, 16], "UINT8")
    image.set_data_from_numpy(np.zeros((90_000, 3, 16, 16), np.uint8))
    with proxy.grpc() as client:
        with pytest.raises(InferenceServerException):
            client.infer("tiny", [image], headers=TOKEN)
        small = tritonclient.grpc.InferInput("image", [2, 3, 16, 16], "UINT8")
        small.set_data_from_numpy(IMAGES)
        with pytest.raises(InferenceServerException):
            client.infer("tiny", [small], headers=TOKEN, compression_algorithm="gzip")
        assert client.infer("tiny", [small], headers=TOKEN).as_numpy("logits").shape == (2, 10)


def test_what_nginx_keeps_on_disk_lies_in_its_own_folder(proxy: Proxy) -> None:
    body = infer_body() + b" " * 300_000  # too long for memory, so it is passed on through a file
    assert proxy.ask("POST", "/v2/models/tiny/infer", body)[0] == 200
    state = proxy.log.parent / "state"
    made = {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()}
    assert made == dict.fromkeys(("body", "proxy", "fastcgi", "uwsgi", "scgi"), 0o700)
    assert list(state.rglob("*/*")) == []  # gone with the request
    assert [path.name for path in (proxy.log.parent / "run").iterdir()] == ["nginx.pid"]


PATHS = r"(?m)^\s*(?:stats socket|pid|error_log|access_log|\w+_temp_path|lock_file)\s+(\S+?);?(?:\s|$)"


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_proxy_writes_into_folders_that_its_file_says_how_to_make(name: str) -> None:
    """In /tmp anybody can lay a link, or a socket, under a name that the proxy is about to use."""
    text = (CONFIGURATION.parent / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]).read_text()
    mode, made = re.search(r"install -d -m (7\d\d) -o USER (.+)", text).groups()
    written = [path for path in re.findall(PATHS, text) if path.startswith("/") and path != "/dev/stdout"]
    assert len(written) == {"nginx": 6, "haproxy": 1}[name]
    assert all(any(path.startswith(f"{folder}/") for folder in made.split()) for path in written)
    assert all(Path(folder).parent in (Path("/run"), Path("/var/lib")) for folder in made.split())
    assert not int(mode, 8) & 0o066
    assert "/tmp/" not in text


def test_plain_http_is_refused(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, proxy.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/health/live", headers=TOKEN)
        assert connection.getresponse().status == 400


def test_the_log_names_callers_and_holds_no_token(proxy: Proxy) -> None:
    proxy.ask("GET", "/v2/health/live")
    lines = proxy.log.read_text()
    assert ' tests "GET /v2/health/live HTTP/1.1" 200' in lines
    assert TOKEN["authorization"].split()[1] not in lines
