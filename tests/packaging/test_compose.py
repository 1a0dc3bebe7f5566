"""docker-compose.yml: valid, closed to the outside, and serving what the embedded server serves.

Docker is not needed. The commands in the file, the server's and the health check's, run against the embedded
server's binary, which is the same program in an older version.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from resx.cli.options.repository import DEFAULT_REPOSITORY
from resx.serving.client.address import CONTROL_HEADER, CONTROL_KEY_VARIABLE, parse_address
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import LOOPBACK
from resx.serving.embedded import server_ports
from resx.serving.embedded.installation import triton_installation

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SERVICES = {"cpu": "triton-cpu", "gpu": "triton-gpu"}
WATCHERS = ("prometheus", "grafana")
CONFIG = """\
name: "tiny"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "image" data_type: TYPE_UINT8 dims: [ 3, 8, 8 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 1 kind: KIND_AUTO } ]
"""


def compose() -> dict[str, Any]:
    return YAML(typ="safe").load(FILE.read_text())


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return compose()["services"][SERVICES[request.param]]


def flags(service: dict[str, Any]) -> dict[str, str]:
    program, *arguments = service["command"]
    assert program == "tritonserver"
    pairs = [argument.partition("=") for argument in arguments]
    assert [value for name, _, value in pairs if name == "--metrics-config"][:1] == ["summary_latencies=true"]
    assert all(name.startswith("--") for name, _, _ in pairs)
    return {name: value for name, _, value in pairs}


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def interpolated(text: str, key: str) -> str:
    """Do what Compose does to a value before it is used."""
    return re.sub(rf"\$\{{{CONTROL_KEY_VARIABLE}:\?[^}}]+\}}", key, text).replace("$$", "$")


def schema_check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_fits_the_compose_schema() -> None:
    checked = schema_check(FILE)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_check_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(FILE.read_text().replace("stop_grace_period", "stop_grace"))
    assert schema_check(broken).returncode == 1


def test_every_service_has_one_profile_and_triton_one_for_each_kind_of_machine() -> None:
    profiles = {name: service["profiles"] for name, service in compose()["services"].items()}
    wanted = {name: [profile] for profile, name in SERVICES.items()}
    assert profiles == wanted | {name: ["monitoring"] for name in WATCHERS}


def test_the_profiles_differ_in_the_gpu_alone() -> None:
    cpu, gpu = (dict(compose()["services"][SERVICES[profile]]) for profile in ("cpu", "gpu"))
    devices = gpu.pop("deploy")["resources"]["reservations"]["devices"]
    assert [(device["driver"], device["capabilities"]) for device in devices] == [("nvidia", ["gpu"])]
    assert cpu.pop("profiles") != gpu.pop("profiles")
    assert cpu == gpu


def test_the_image_is_nvidias_in_a_pinned_release_with_the_security_fixes(service: dict[str, Any]) -> None:
    release = re.fullmatch(r"nvcr\.io/nvidia/tritonserver:(\d\d)\.(\d\d)-py3(@sha256:[0-9a-f]{64})?", service["image"])
    assert release
    assert (int(release[1]), int(release[2])) >= (26, 5)


def test_the_ports_are_tritons_and_on_loopback(service: dict[str, Any]) -> None:
    ports = server_ports.Ports()
    assert service["ports"] == [f"{LOOPBACK}:{port}:{port}" for port in (ports.http, ports.grpc, ports.metrics)]


def test_the_server_runs_with_no_rights_it_does_not_need(service: dict[str, Any]) -> None:
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & service.keys()


@pytest.mark.parametrize("name", WATCHERS)
def test_the_watchers_run_pinned_with_no_rights_and_on_loopback(name: str) -> None:
    service = compose()["services"][name]
    assert re.fullmatch(r"(prom|grafana)/[a-z]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", service["image"])
    assert int(service["user"].partition(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "ports"} & service.keys()
    # On the host's network they would listen on every address unless told otherwise.
    assert service["network_mode"] == "host"
    if name == "prometheus":
        assert "--web.listen-address=127.0.0.1:9090" in service["command"]
        assert not any("lifecycle" in argument or "admin-api" in argument for argument in service["command"])
    else:
        assert service["environment"]["GF_SERVER_HTTP_ADDR"] == LOOPBACK
        assert service["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


@pytest.mark.parametrize("name", WATCHERS)
def test_what_the_watchers_mount_is_there_and_read_only(name: str) -> None:
    binds = [mount for mount in compose()["services"][name]["volumes"] if isinstance(mount, dict)]
    assert binds
    for mount in binds:
        assert (ROOT / mount["source"]).is_dir()
        assert mount["read_only"] is True


def test_grafana_finds_its_dashboard_and_prometheus() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    targets = {mount["target"]: ROOT / mount["source"] for mount in compose()["services"]["grafana"]["volumes"]}
    (provider,) = YAML(typ="safe").load((provisioning / "dashboards/resx.yml").read_text())["providers"]
    folder = targets[provider["options"]["path"]]
    home = compose()["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()
    (source,) = YAML(typ="safe").load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert (
        f"--web.listen-address={source['url'].removeprefix('http://')}"
        in compose()["services"]["prometheus"]["command"]
    )


def test_what_the_read_only_root_lacks_is_there(service: dict[str, Any]) -> None:
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["shm_size"] == "1gb"


def test_it_mounts_the_folder_that_resx_serves_by_default_and_cannot_write_it(service: dict[str, Any]) -> None:
    (mount,) = service["volumes"]
    assert (ROOT / mount["source"]).resolve() == (ROOT / DEFAULT_REPOSITORY).resolve()
    assert (ROOT / mount["source"]).is_dir()
    assert mount["target"] == flags(service)["--model-repository"]
    assert mount["read_only"] is True


def test_models_are_loaded_explicitly_and_a_broken_one_does_not_stop_the_server(service: dict[str, Any]) -> None:
    given = flags(service)
    assert given["--model-control-mode"] == "explicit"
    assert given["--load-model"] == "*"
    assert given["--exit-on-error"] == "false"


def test_docker_waits_longer_than_triton_does(service: dict[str, Any]) -> None:
    assert seconds(service["stop_grace_period"]) > int(flags(service)["--exit-timeout-secs"])


def test_the_control_apis_want_the_key_that_the_client_sends(service: dict[str, Any]) -> None:
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        apis, _, restriction = flags(service)[flag].partition(":")
        header, _, key = restriction.partition("=")
        assert apis == triton_installation.RESTRICTED_APIS
        assert header == CONTROL_HEADER
        assert key.startswith(f"${{{CONTROL_KEY_VARIABLE}:?"), "without a key the file must not start anything"


def test_the_health_check_leaves_time_for_its_own_timeout(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    allowed = re.search(r"--max-time (\d+)", check["test"][1])
    assert allowed
    assert int(allowed[1]) < seconds(check["timeout"]) <= seconds(check["interval"])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one tiny model, one that cannot be loaded, and the files that git keeps there."""
    from onnx import TensorProto, checker, helper, save

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [logits], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    folder = tmp_path / "models"
    for name in ("tiny", "broken"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.replace('"tiny"', f'"{name}"'))
    save(model, folder / "tiny" / "1" / "model.onnx")
    (folder / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    for name in (".gitignore", "README.md"):
        shutil.copy(ROOT / "model_repository" / name, folder)
    return folder


@pytest.fixture
def ports() -> server_ports.Ports:
    return server_ports.Ports(http=0, grpc=0, metrics=0).resolved()


@pytest.fixture
def key() -> str:
    return secrets.token_hex(32)


@pytest.fixture
def server(repository: Path, ports: server_ports.Ports, key: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The embedded server's binary, started with the compose file's command."""
    if reason := triton_installation.missing_for_install() or (
        None if shutil.which("curl") else "curl is not installed"
    ):
        pytest.skip(reason)
    installation = triton_installation.install()
    _, *arguments = compose()["services"]["triton-cpu"]["command"]
    given = [interpolated(argument, key).replace("/models", str(repository)) for argument in arguments]
    own = [
        f"--backend-directory={installation.backends}",
        f"--backend-config=python,shm-region-prefix-name=resx-{os.getpid()}-compose-",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        *(f"--{protocol}-address={LOOPBACK}" for protocol in ("http", "grpc", "metrics")),
    ]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(installation.server), *given, *own],
            stdout=log,
            stderr=log,
            env=triton_installation.process_environment(installation),
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(40)
            finally:
                process.kill()
                process.wait()


def is_healthy(ports: server_ports.Ports, key: str) -> bool:
    shell, command = compose()["services"]["triton-cpu"]["healthcheck"]["test"]
    assert shell == "CMD-SHELL"
    assert "http://127.0.0.1:8000/" in command
    command = interpolated(command, key).replace(":8000/", f":{ports.http}/")
    environment = {"PATH": os.environ["PATH"], CONTROL_KEY_VARIABLE: key}
    return subprocess.run(["/bin/sh", "-c", command], env=environment, check=False).returncode == 0


@pytest.mark.triton
def test_health_follows_the_models_of_a_server_started_by_the_files_own_command(
    server: subprocess.Popen[bytes], ports: server_ports.Ports, key: str, tmp_path: Path
) -> None:
    address = parse_address(f"{LOOPBACK}:{ports.http}", "http", control_key=key)
    with TritonClient(address) as client:
        end = time.monotonic() + 60
        while not client.is_live():
            assert server.poll() is None, triton_installation.last_error(tmp_path / "server.log")
            assert time.monotonic() < end, triton_installation.last_error(tmp_path / "server.log")
            time.sleep(0.2)

        assert client.model_versions() == {"tiny": [1]}, "the broken model is not ready, the other one is"
        assert is_healthy(ports, key)
        assert not is_healthy(ports, "another key")

        client.unload("tiny")
        while client.model_versions():
            time.sleep(0.1)

        assert client.is_live(), "the server itself is well"
        assert not is_healthy(ports, key)
