"""Two servers behind HAProxy: requests are balanced one by one, only inference passes, and a kill loses none."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks import fleet

from resx.errors import MissingCapability
from resx.repository.versions import Repository
from resx.serving.client.address import CONTROL_HEADER
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import ConnectionLost
from tests.support import debian
from tests.support.running_triton import wait_until
from tests.support.tiny_models import publish_tiny

pytestmark = [pytest.mark.triton, pytest.mark.timeout(400)]
IMAGES = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
Behind = tuple[fleet.Fleet, fleet.Proxy]


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    debian.program("haproxy", "usr/sbin/haproxy")  # skips before servers are started
    folder = tmp_path_factory.mktemp("fleet")
    repositories = [Repository(folder / "a"), Repository(folder / "b")]
    for seed in (0, 1):
        publish_tiny(repositories[0], "tiny", seed=seed)
    with fleet.served(repositories, "tiny", IMAGES) as servers:
        servers.deploy(1)
        with fleet.proxied(servers, folder) as proxy:
            wait_until(lambda: all_in(proxy), "both servers are in")
            yield servers, proxy


def all_in(proxy: fleet.Proxy) -> bool:
    return all(word == "UP" for server in ("s0", "s1") for word in proxy.statistics(server, "status"))


def requests_of(proxy: fleet.Proxy, backend: int) -> list[int]:
    return [int(proxy.statistics(server, "stot")[backend]) for server in ("s0", "s1")]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_one_connection_is_balanced_request_by_request(behind: Behind, protocol: str) -> None:
    servers, proxy = behind
    address, backend = (proxy.http, 0) if protocol == "http" else (proxy.grpc, 1)
    before = requests_of(proxy, backend)
    with TritonClient(address) as client:
        interface = client.interface("tiny")
        for _ in range(40):
            np.testing.assert_allclose(client.infer("tiny", interface, IMAGES).logits, servers.expected[1], rtol=1e-4)
    after = requests_of(proxy, backend)
    assert all(now - then >= 10 for now, then in zip(after, before, strict=True)), (before, after)


def test_control_does_not_pass(behind: Behind) -> None:
    servers, proxy = behind
    host, _, port = proxy.http.host_port.rpartition(":")
    headers = {CONTROL_HEADER: servers.states[0].address("http").control_key}
    for method, path in [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/tiny/unload"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/tiny/infer"),
        ("POST", "/v2/models/../repository/index"),
        ("GET", "/metrics"),
    ]:
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request(method, path, b"{}" if method == "POST" else None, headers)
        assert connection.getresponse().status == 403, path
        connection.close()
    with TritonClient(proxy.grpc) as client, pytest.raises(MissingCapability):
        client.model_versions()


def test_a_killed_server_costs_no_request_and_comes_back(behind: Behind, capsys: pytest.CaptureFixture[str]) -> None:
    servers, proxy = behind
    assert fleet.kill_under_load(servers, proxy, rate=60, seconds=1.5) == []
    printed = capsys.readouterr().out
    assert "kill of one of 2" in printed
    assert sum(int(line.split()[-6]) for line in printed.splitlines() if line.startswith(("before", "back"))) > 100
    wait_until(lambda: all_in(proxy), "both servers are in")


def test_a_rolling_upgrade_costs_no_request_and_both_versions_are_seen(behind: Behind) -> None:
    servers, proxy = behind
    assert fleet.upgrade_under_load(servers, proxy, rate=60, seconds=1.0, versions=(1, 2)) == []


def test_a_proxy_without_servers_is_a_lost_connection(behind: Behind) -> None:
    """So that the client's retries wait for them."""
    servers, proxy = behind
    for state in servers.states:
        fleet.kill(state)
    try:
        wait_until(lambda: not any(word == "UP" for s in ("s0", "s1") for word in proxy.statistics(s, "status")), "out")
        with TritonClient(proxy.http) as client, pytest.raises(ConnectionLost, match="status 503 from a proxy"):
            client.interface("tiny")
    finally:
        for position in range(2):
            fleet.bring_back(servers, position)


def test_a_configuration_with_a_misspelt_word_does_not_pass_the_check(tmp_path: Path) -> None:
    """The others' proxies were started with what `haproxy -c` had accepted."""
    program = debian.program("haproxy", "usr/sbin/haproxy")
    for text, code in ((fleet.CONFIGURATION.read_text(), 0), (fleet.CONFIGURATION.read_text() + "redispach\n", 1)):
        (tmp_path / "haproxy.cfg").write_text(text)
        command = [str(program), "-c", "-f", str(tmp_path / "haproxy.cfg")]
        done = subprocess.run(command, env=debian.environment(program), capture_output=True, check=False)
        assert done.returncode == code, done.stderr
