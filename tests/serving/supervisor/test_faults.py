"""Processes are killed under load: what clients notice, what comes back, and what is said when nothing does.

`make faults` injects the same faults 20 times each and holds the bars on time; here one of each must do no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from benchmarks import fault_clients, faults
from benchmarks.fault_clients import Row

from resx.card.runtime import RUNTIMES
from resx.files.locks import process_lives
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import ModelProcessLost, NotLoaded
from resx.serving.deployment import version_pinning
from resx.serving.deployment.deploy import deploy
from resx.serving.running import server_state as states
from resx.serving.running.server_state import running_server
from resx.serving.running.version_records import record_deployed
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.running_triton import FREE, current, stub_of, wait_until
from tests.support.tiny_models import publish_tiny

pytestmark = [pytest.mark.triton, pytest.mark.slow]  # `make test-slow`: real faults take minutes
NOTHING = np.zeros((1, 3, 16, 16), np.uint8)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny")
    yield repository
    if running_server(repository):
        detaching.stop(repository)


def harmless(rows: list[Row]) -> None:
    """Nothing wrong, nothing lost that must not be; how long it took is for a quiet machine to say."""
    for row in rows:
        assert row.sent > 20
        assert row.wrong == 0
        assert not [bar for bar in row.missed if "noticed" not in bar and "after" not in bar], faults.line(row)


def recovered(repository: Repository, restarts: int) -> None:
    wait_until(lambda: current(repository).restarts == restarts and current(repository).phase == "serving", "recovered")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break what each runtime computes."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(fault_clients, "COMPUTED_BY", [request.param])


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("victim", ["stub", "tritonserver"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_process_costs_only_clients_that_do_not_retry(victim: str, number: signal.Signals) -> None:
    harmless(faults.kill(victim, number, times=1))


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_under_load_answers_every_accepted_request_and_leaves_nothing(number: signal.Signals) -> None:
    harmless(faults.terminate(number, times=1))


def test_a_dead_stub_is_replaced_without_a_new_server(repository: Repository) -> None:
    publish_tiny(repository, "other", seed=1)
    state = detaching.serve_detached(repository, FREE)
    os.kill(stub_of(state), signal.SIGKILL)
    recovered(repository, 1)
    after = current(repository)
    assert after.server_pid == state.server_pid
    assert after.last_recovery is not None
    assert "stub of tiny version 1 died" in after.last_recovery.reason


def test_what_comes_back_is_what_was_deployed_and_not_the_newest(repository: Repository) -> None:
    """Version 2 is published, and even loaded, but has proved nothing yet."""
    state = detaching.serve_detached(repository, FREE)
    publish_tiny(repository, "tiny", seed=1)
    with TritonClient(state.address("grpc")) as client:
        for victim in ("tritonserver", "stub"):
            client.load("tiny", version_pinning.config_json(repository, "tiny", [2]))
            assert client.model_versions() == {"tiny": [2]}
            restarts = current(repository).restarts
            time.sleep(1.5)  # nobody has proved it, so no canary asks it: its stub must have been seen alive
            pid = current(repository).server_pid if victim == "tritonserver" else stub_of(current(repository))
            os.kill(pid, signal.SIGKILL)
            recovered(repository, restarts + 1)
            wait_until(client.is_live, "the connection is back")
            assert client.model_versions() == {"tiny": [1]}
        assert deploy(client, repository, "tiny").version == 2, "a new server reads the real repository again"
    os.kill(current(repository).server_pid, signal.SIGKILL)
    recovered(repository, 3)
    with TritonClient(state.address("http")) as client:
        assert client.model_versions() == {"tiny": [2]}, "the deployed version is recorded"


def test_ports_and_key_stay_and_a_connection_survives_a_new_server(repository: Repository) -> None:
    state = detaching.serve_detached(repository, FREE)
    with TritonClient(state.address("grpc")) as client:
        os.kill(state.server_pid, signal.SIGKILL)
        recovered(repository, 1)
        after = current(repository)
        assert (after.http_port, after.grpc_port, after.metrics_port) == (
            state.http_port,
            state.grpc_port,
            state.metrics_port,
        )
        wait_until(client.is_live, "the old connection is back")
        client.unload("tiny")  # with the old key


def test_a_model_that_cannot_be_brought_back_is_set_aside_and_the_others_go_on(
    repository: Repository, resx: Callable[..., Finished]
) -> None:
    """Its card now asks for an answer that no server gives."""
    _, published = publish_tiny(repository, "other", seed=1)
    state = detaching.serve_detached(repository, FREE, arguments=["--tries", "2"])
    card = published.folder / "card.json"
    text = card.read_text()
    rows = json.loads(text)["canary"]["logits"]
    card.write_text(text.replace(f"{rows[0][0]!r}", f"{rows[0][0] + 5!r}", 1))
    os.kill(state.server_pid, signal.SIGKILL)
    wait_until(lambda: "other" in current(repository).set_aside, "set aside")
    wait_until(lambda: current(repository).phase == "serving", "serving")
    with TritonClient(state.address("grpc")) as client:
        wait_until(client.is_live, "the connection is back")
        assert client.model_versions() == {"tiny": [1]}
        status = resx("status", f"--repository={repository.root}")
        assert "other is set aside, the other models keep serving: other version 1:" in status.out
        assert resx("status", f"--repository={repository.root}", "--json").json["set_aside"].keys() == {"other"}
        card.write_text(text)
        deploy(client, repository, "other")
        assert client.model_versions() == {"other": [1], "tiny": [1]}
    assert resx("status", f"--repository={repository.root}", "--json").json["set_aside"] == {}


def test_a_version_that_somebody_unloads_is_left_unloaded(repository: Repository) -> None:
    state = detaching.serve_detached(repository, FREE)
    with TritonClient(state.address("grpc")) as client:
        interface = client.interface("tiny")
        client.unload("tiny")
        log = Path(state.log)
        wait_until(lambda: "successfully unloaded 'tiny'" in log.read_text(), "it is unloaded")
        with pytest.raises(NotLoaded):
            client.infer("tiny", interface, NOTHING)
        time.sleep(2.5)  # two canaries
    assert current(repository) == state
    record_deployed(repository, "tiny", [])


@pytest.mark.parametrize("victim", ["stub", "tritonserver"])
def test_a_process_that_hangs_is_brought_back(repository: Repository, victim: str) -> None:
    state = detaching.serve_detached(repository, FREE, ["--canary-timeout=2"])
    os.kill(stub_of(state) if victim == "stub" else state.server_pid, signal.SIGSTOP)
    recovered(repository, 1)
    assert (current(repository).server_pid == state.server_pid) == (victim == "stub")
    with TritonClient(state.address("grpc")) as client:
        assert client.infer("tiny", client.interface("tiny"), NOTHING).version == 1


def test_without_retries_a_dead_stub_is_told_as_what_it_is(repository: Repository) -> None:
    state = detaching.serve_detached(repository, FREE)
    with TritonClient(state.address("grpc")) as client:
        interface = client.interface("tiny")
        os.kill(stub_of(state), signal.SIGKILL)
        with pytest.raises(ModelProcessLost, match="Stub process 'tiny_0_0' is not healthy"):
            client.infer("tiny", interface, NOTHING)


def test_it_gives_up_after_the_tries_it_was_allowed_and_status_says_why(
    repository: Repository, resx: Callable[..., Finished]
) -> None:
    """The server itself is killed whenever it is there; with that no model has to do."""
    command = [sys.executable, "-m", "resx", "serve", f"--repository={repository.root}", "--tries=2",
               "--http-port=0", "--grpc-port=0", "--metrics-port=0"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: running_server(repository) is not None, "it serves")
        state, supervisor = current(repository), psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for server in supervisor.children():
                    if any("tritonserver" in word for word in server.cmdline()[:1]):
                        server.kill()
            time.sleep(0.02)
        _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: gave up after 2 tries in a row: tritonserver was ended by SIGKILL")
    assert err.count("error:") == 1
    assert "gave up after 2 tries in a row" in Path(state.log).read_text()

    status = resx("status", f"--repository={repository.root}")
    assert status.code == 4
    assert "no server is running; the last one stopped at " in status.err
    assert "gave up after 2 tries in a row: tritonserver was ended by SIGKILL" in status.err
    tail = resx("logs", f"--repository={repository.root}", "-n", "30").out
    assert "gave up after 2 tries in a row" in tail
    assert tail.count("\n") == 30


def test_after_a_killed_supervisor_exactly_what_was_served_comes_back(repository: Repository) -> None:
    state = detaching.serve_detached(repository, FREE)
    publish_tiny(repository, "tiny", seed=1)
    os.kill(state.server_pid, signal.SIGSTOP)  # it cannot react to the death of its parent
    os.kill(state.pid, signal.SIGKILL)
    os.waitpid(state.pid, 0)

    again = detaching.serve_detached(repository, FREE)

    assert not process_lives(state.server_pid), "what was left of the killed one is removed"
    assert not list(Path("/dev/shm").glob(f"resx-{state.pid}-*"))
    with TritonClient(again.address("grpc")) as client:
        assert client.model_versions() == {"tiny": [1]}
    detaching.stop(repository)
    fresh = detaching.serve_detached(repository, FREE)
    with TritonClient(fresh.address("grpc")) as client:
        assert client.model_versions() == {"tiny": [2]}, "after a clean stop the newest is served"


def test_status_shows_times_and_restarts(repository: Repository, resx: Callable[..., Finished]) -> None:
    state = detaching.serve_detached(repository, FREE)
    os.kill(state.server_pid, signal.SIGKILL)
    recovered(repository, 1)
    found: dict[str, Any] = {}

    def is_counted() -> bool:
        """Ask once more: what comes before the supervisor's first look at a new server counts as before it."""
        with TritonClient(current(repository).address("grpc")) as client:
            client.infer("tiny", client.interface("tiny"), NOTHING)
        found.update(resx("status", f"--repository={repository.root}", "--json").json)
        return bool(found["models"][0]["requests"])

    wait_until(is_counted, "a request counted")
    (model,) = found["models"]
    assert model["name"] == "tiny"
    assert model["ready"] is True
    assert model["p50_ms"] > 0
    assert model["mean_ms"] > 0
    assert (found["phase"], found["restarts"], found["pid"]) == ("serving", 1, state.pid)
    assert found["last_restart"]["reason"] == "tritonserver was ended by SIGKILL"
    assert 0 <= found["last_restart"]["ago_s"] < found["uptime_s"] < states.now_s()
    shown = resx("status", f"--repository={repository.root}").out
    assert "recovered 1 time" in shown
    assert "p50 ms" in shown


def test_following_the_log_ends_with_the_server(repository: Repository) -> None:
    detaching.serve_detached(repository, FREE)
    command = [sys.executable, "-m", "resx", "logs", "-f", "-n", "2", f"--repository={repository.root}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        detaching.stop(repository)
        rest, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    assert "drained" in rest


def test_two_logs_of_nothing_are_usage_errors(resx: Callable[..., Finished]) -> None:
    assert "no server has run for this repository" in resx("logs").err
    done = resx("logs", "-f", "--json")
    assert (done.code, done.out) == (2, "")
    assert "--json and --follow" in done.err
