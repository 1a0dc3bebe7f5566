import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from resx.repository.versions import Repository
from resx.serving.client.address import parse_address
from resx.serving.client.client import TritonClient
from resx.serving.embedded.triton_process import Stub, TritonProcess
from resx.serving.running.self_test_ledger import SelfTestLedger
from resx.serving.supervisor import health_watch
from resx.serving.supervisor.health_watch import (
    CanaryWatch,
    Fault,
    RequestCounts,
    StubWatch,
    counts,
    num_finished,
)
from tests.support.hostile_server import LOGITS, STATISTICS, answer, hostile, inference
from tests.support.tiny_models import publish_tiny

Answer = Callable[[int], bytes]
"""What a server sends to a request of so many rows."""


class Parent:
    """A process with one child that is called a stub: this one."""

    pid = os.getpid()

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self.child = child
        self.kills_it_next = self.is_killed = False

    def stubs(self) -> dict[int, Stub]:
        """List those that live; a process that ends while one looks is not among them."""
        if self.is_killed:
            return {}
        if self.kills_it_next:
            self.is_killed = True
            self.child.kill()
            os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has waited for it
            return {}
        return {self.child.pid: Stub(model="m", version=1)}


def child() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def fault_of(watch: StubWatch) -> Fault | None:
    deadline = time.monotonic() + 45
    while time.monotonic() < deadline:
        if found := watch.fault():
            return found
        time.sleep(0.02)
    return None


def test_a_stub_that_dies_is_a_fault_of_its_model() -> None:
    with child() as stub:
        watch = StubWatch(cast("TritonProcess", Parent(stub)))
        watch.scan()
        assert watch.fault() is None
        assert (watch.alive, watch.is_in_doubt) == ([stub.pid], False)
        stub.kill()
        os.waitid(os.P_PID, stub.pid, os.WEXITED | os.WNOWAIT)
        assert watch.fault() is None  # Triton may still wait for it
        assert (watch.alive, watch.is_in_doubt) == ([], True)
        found = fault_of(watch)
        assert found is not None
        assert found.model == "m"
        assert "stub of m version 1 died" in found.reason
        assert (watch.alive, watch.is_in_doubt) == ([], False)


def test_a_stub_that_dies_in_the_middle_of_a_scan_is_not_forgotten() -> None:
    with child() as stub:
        parent = Parent(stub)
        watch = StubWatch(cast("TritonProcess", parent))
        watch.scan()
        parent.kills_it_next = True
        watch.scan()
        found = fault_of(watch)
        assert found is not None
        assert found.model == "m"


class Model:
    """A model `m` of a server: answers each canary as it is told to, and counts them."""

    def __init__(self) -> None:
        self.says: Answer = right
        self.num_asked = 0
        self._changed = threading.Condition()

    def infer(self, connection: socket.socket, body: bytes) -> None:
        num_rows = json.JSONDecoder().raw_decode(body.decode("latin-1"))[0]["inputs"][0]["shape"][0]
        connection.sendall(self.says(num_rows).replace(b"Connection: close\r\n", b""))
        with self._changed:
            self.num_asked += 1
            self._changed.notify_all()

    def wait_for_canaries(self, number: int) -> None:
        with self._changed:
            wanted = self.num_asked + number
            assert self._changed.wait_for(lambda: self.num_asked >= wanted, timeout=600)


def right(num_rows: int) -> bytes:
    return inference(LOGITS.tobytes() * num_rows, num_rows)


def answering(change: Callable[[np.ndarray], np.ndarray]) -> Answer:
    return lambda num_rows: inference(change(LOGITS).astype(np.float32).tobytes() * num_rows, num_rows)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository whose version 1 of `m` has a card that records what `right` answers."""
    repository = Repository(tmp_path_factory.mktemp("served") / "model_repository")
    card = publish_tiny(repository, "m")[0]
    path = repository.version_folder("m") / "card.json"
    fields = json.loads(path.read_text())
    fields["source"]["spec"] |= {"image_size": 8, "resize": 8}
    fields["canary"]["logits"] = [LOGITS.tolist()] * card.canary.num_images
    path.write_text(json.dumps(fields))
    return repository


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (answering(lambda logits: logits + 0.5), "the served answer differs from the card's by 0.0556 of its scale"),
        (answering(lambda logits: logits[::-1]), "the served answer differs from the card's by 1 of its scale"),
        (answering(lambda logits: logits * np.nan), "the served answer is not finite"),
        (
            lambda _rows: answer({"error": "it broke"}, status="500 Internal Server Error"),
            "it broke",
        ),
    ],
    ids=["a little", "turned round", "NaN", "error"],
)
def test_a_model_that_begins_to_answer_its_canary_wrongly_is_a_fault(
    served: Repository, monkeypatch: pytest.MonkeyPatch, wrong: Answer, reason: str, tmp_path: Path
) -> None:
    """Canaries are asked one after the other: when the third wrong answer goes out, the first has been judged."""
    monkeypatch.setattr(health_watch, "_COST", 1.0)  # a busy machine is asked as often as an idle one
    model = Model()
    with hostile(infer=model.infer) as server:
        address = parse_address(server.url, "http")
        ledger = SelfTestLedger(tmp_path, served)
        watch = CanaryWatch(address, served, lambda: {"m": (1,)}, ledger=ledger, interval_s=0.01, timeout_s=600)
        watch.start()
        try:
            model.wait_for_canaries(3)
            assert watch.fault() is None
            model.says = wrong
            model.wait_for_canaries(3)
            found = watch.fault()
        finally:
            watch.stop()

    assert found is not None
    assert (found.model, found.version, found.kind) == ("m", 1, "wrong")
    assert found.reason.startswith("m version 1: ")
    assert reason in found.reason


def test_answers_of_the_cache_are_not_computed() -> None:
    """Triton counts them among its successes, and a model whose process is dead would seem to finish them."""
    said = STATISTICS["model_stats"][0] | {
        "inference_stats": {"success": {"count": 9}, "fail": {"count": 2}, "cache_hit": {"count": 7}}
    }
    with (
        hostile(stats=answer({"model_stats": [said]})) as server,
        TritonClient(parse_address(server.url, "http")) as client,
    ):
        assert counts(client, "m", 1) == RequestCounts(computed=2, failed=2)
        assert num_finished(client, "m", 1) == 2
