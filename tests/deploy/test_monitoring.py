"""deploy/prometheus and deploy/grafana: a real Prometheus scrapes the embedded server and finds what they ask for."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from resx.errors import ResxError
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.loopback import LOOPBACK
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import running_server
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support import debian
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy/prometheus"
DASHBOARD = ROOT / "deploy/grafana/dashboards/triton.json"
IMAGES = np.zeros((2, 3, 16, 16), np.uint8)
# Grafana fills these in before it asks Prometheus.
VARIABLES = {"$instance": ".*", "$model": ".*", "$__all": ".*"}


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def alerts_and_records() -> tuple[dict[str, str], dict[str, str]]:
    rules = [rule for group in yaml(CONFIGURATION / "rules.yml")["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}
    return alerts, {rule["record"]: rule["expr"] for rule in rules if "record" in rule}


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def dashboard_queries() -> dict[str, str]:
    """Return the PromQL of each panel's targets, with the variables filled in as Grafana does."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in VARIABLES.items():
                text = text.replace(variable, value)
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = text
    return found


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:nv_|resx:)[a-z0-9_:]+|\bup\b", expression))


@pytest.fixture(scope="session")
def promtool() -> Path:
    return debian.program("prometheus", "usr/bin/promtool")


def run_promtool(promtool: Path, *arguments: str, cwd: Path = CONFIGURATION) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(promtool), *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_promtool_accepts_the_configuration_and_every_alert_behaves(promtool: Path) -> None:
    for arguments in (("check", "config", "prometheus.yml"), ("test", "rules", "rules.test.yml")):
        done = run_promtool(promtool, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    alerts, _ = alerts_and_records()
    assert len(alerts) > 5
    tested = (CONFIGURATION / "rules.test.yml").read_text()
    assert [name for name in alerts if f'"{name}"' not in tested and f": {name}\n" not in tested] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [("for: 1m", "for: 9m"), ("> 0.01", "> 0.1"), ("offset 10m", "offset 1m"), ("> 2\n", "> 3\n")],
)
def test_the_tests_of_the_alerts_can_fail(promtool: Path, tmp_path: Path, before: str, after: str) -> None:
    text = (CONFIGURATION / "rules.yml").read_text()
    assert before in text
    (tmp_path / "rules.yml").write_text(text.replace(before, after, 1))
    shutil.copy(CONFIGURATION / "rules.test.yml", tmp_path)
    assert run_promtool(promtool, "test", "rules", "rules.test.yml", cwd=tmp_path).returncode == 1


def test_the_dashboard_is_well_formed() -> None:
    found = dashboard()
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    data_sources = {json.dumps(part["datasource"]) for panel in panels for part in (panel, *panel["targets"])}
    assert data_sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    variables = {variable["name"] for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$([a-z]+)\b", json.dumps([panel["targets"] for panel in panels])))
    assert used <= variables
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["description"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_recorded_names_that_are_used_are_recorded() -> None:
    alerts, records = alerts_and_records()
    used = {name for text in [*alerts.values(), *dashboard_queries().values()] for name in metrics_in(text)}
    assert {name for name in used if name.startswith("resx:")} <= records.keys()


@dataclass(frozen=True, kw_only=True, slots=True)
class Prometheus:
    """A running one, over deploy/prometheus, faster and on another port."""

    port: int

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        return list(self.get("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        found = self.ask(expression)
        return float(found[0]["value"][1]) if found else None


def until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, state_folder: Path) -> Iterator[RunningTriton]:
    """A server of its own, which a test here kills."""
    repository = Repository(tmp_path_factory.mktemp("watched") / "model_repository")
    publish_tiny(repository, "tiny")
    serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    yield RunningTriton(repository=repository)
    stop(repository)


@pytest.fixture(scope="module")
def prometheus(watched: RunningTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = debian.program("prometheus", "usr/bin/prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    text = (CONFIGURATION / "prometheus.yml").read_text()
    assert '"127.0.0.1:8002"' in text
    text = text.replace(":8002", f":{watched.state.metrics_port}")
    (folder / "prometheus.yml").write_text(re.sub(r"_(interval|timeout): \d+s", r"_\1: 1s", text))
    shutil.copy(CONFIGURATION / "rules.yml", folder)
    port = Ports(http=0, grpc=0, metrics=0).resolved().http
    command = [
        str(program),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={LOOPBACK}:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server, records = Prometheus(port=port), alerts_and_records()[1].keys()

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        with contextlib.suppress(OSError, http.client.HTTPException):
            # A scrape between two rules of one evaluation gives the later one what the earlier one had not.
            return records <= set(server.get("label/__name__/values"))
        return False

    try:
        with watched.client() as client:
            interface = client.interface("tiny")

            def ready_under_load() -> bool:
                client.infer("tiny", interface, IMAGES)
                with contextlib.suppress(ResxError):
                    client.infer("tiny", interface, IMAGES[:, :, :4])
                return ready()

            until(ready_under_load, (folder / "log").read_text()[-2000:])
        yield server
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.triton
def test_prometheus_scrapes_the_embedded_server(prometheus: Prometheus, watched: RunningTriton) -> None:
    (target,) = prometheus.get("targets", state="active")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert prometheus.value("up") == 1.0
    batch = prometheus.value('resx:batch_size:mean1m{model="tiny"}')
    assert batch is not None
    assert 1 <= batch <= 4
    queue, compute = (prometheus.value(f'resx:{what}_seconds:mean1m{{model="tiny"}}') for what in ("queue", "compute"))
    assert queue is not None
    assert compute is not None
    assert queue >= 0
    assert 0 < compute < 60


@pytest.mark.triton
def test_every_metric_that_rules_and_dashboard_name_is_exported(prometheus: Prometheus) -> None:
    alerts, records = alerts_and_records()
    named = {
        name
        for text in [*alerts.values(), *records.values(), *dashboard_queries().values()]
        for name in metrics_in(text)
    }
    assert len(named) > 15
    there = set(prometheus.get("label/__name__/values"))
    assert named - there == set()
    reasons = {series["metric"]["reason"] for series in prometheus.ask("nv_inference_request_failure")}
    assert reasons == {"REJECTED", "CANCELED", "BACKEND", "OTHER"}
    quantiles = {series["metric"]["quantile"] for series in prometheus.ask("nv_inference_request_summary_us")}
    assert quantiles >= {"0.5", "0.99"}


@pytest.mark.triton
def test_what_never_reached_a_model_is_in_no_metric(prometheus: Prometheus) -> None:
    """As docs/monitoring.md says; the fixture sent requests of a wrong shape."""
    assert prometheus.value("sum(nv_inference_request_failure)") == 0


@pytest.mark.triton
def test_every_panel_shows_something(prometheus: Prometheus) -> None:
    queries = dashboard_queries()
    assert [title for title, query in queries.items() if not prometheus.ask(query)] == []


@pytest.mark.triton
def test_every_rule_is_evaluated_without_fault(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    alerts, records = alerts_and_records()
    assert len(rules) == len(alerts) + len(records)
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}


@pytest.mark.triton
def test_a_server_that_was_brought_back_shows_as_restarted(prometheus: Prometheus, watched: RunningTriton) -> None:
    """The last test of this server: it kills it."""
    assert prometheus.value("max(resx:restarts:resets15m)") == 0
    before = running_server(watched.repository)
    assert before is not None
    with watched.client() as client:  # the counters must stand above what the next server's will be
        interface = client.interface("tiny")
        for _ in range(200):
            client.infer("tiny", interface, IMAGES)

    def counted() -> bool:
        return (prometheus.value('nv_inference_request_success{model="tiny"}') or 0) >= 200

    until(counted, "the requests were not scraped")
    os.kill(before.server_pid, signal.SIGKILL)

    def brought_back() -> bool:
        state = running_server(watched.repository)
        return state is not None and state.restarts == 1 and state.phase == "serving"

    until(brought_back, "the server was not brought back")
    with TritonClient(watched.state.address("grpc")) as client:
        assert client.model_versions() == {"tiny": [1]}
    until(lambda: prometheus.value("max(resx:restarts:resets15m)") == 1, "the restart does not show")
