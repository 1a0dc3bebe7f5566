import os
import subprocess
import sys
import time
from typing import cast

from resx.serving.embedded.triton_process import Stub, TritonProcess
from resx.serving.supervisor.health_watch import Fault, StubWatch


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
    deadline = time.monotonic() + 120
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
        stub.kill()
        found = fault_of(watch)
        assert found is not None
        assert found.model == "m"
        assert "stub of m version 1 died" in found.reason


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
