import os
import subprocess
import sys
from typing import cast

from resx.serving.triton_process import Stub, TritonProcess
from resx.serving.watch import StubWatch


class Parent:
    """A process with children that are called stubs: this one."""

    pid = os.getpid()

    def __init__(self, *children: int) -> None:
        self.children = children

    def stubs(self) -> dict[int, Stub]:
        return {pid: Stub(model="m", version=1) for pid in self.children}


def child() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_stub_that_somebody_waited_for_is_missed_all_the_same() -> None:
    """Triton waits for a crashed stub if it looks at it by chance: then it is no zombie that a scan could find."""
    with child() as stub:
        parent = Parent(stub.pid)
        watch = StubWatch(cast("TritonProcess", parent))
        watch.scan()
        assert not watch.has_lost_one()
        stub.kill()
        stub.wait()
        parent.children = ()
        assert watch.has_lost_one()
        assert not watch.has_lost_one()
        assert watch.fault() is None


def test_a_stub_that_nobody_waits_for_is_a_fault_of_its_model() -> None:
    with child() as stub:
        watch = StubWatch(cast("TritonProcess", Parent(stub.pid)))
        watch.scan()
        assert watch.fault() is None
        stub.kill()
        found = None
        while found is None:
            found = watch.fault()
        assert found.model == "m"
        assert "stub of m version 1 died" in found.reason
