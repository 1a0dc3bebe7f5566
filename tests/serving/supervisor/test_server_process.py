"""The process that a supervisor starts is ended with it, whenever the signal comes."""

import signal
from pathlib import Path
from typing import Any, cast

import pytest

from resx.repository.versions import Repository
from resx.serving.embedded.installation.triton_installation import Installation
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.ending_signals import signals_raise
from resx.serving.supervisor import server_process
from resx.serving.supervisor.policy import Policy
from resx.serving.supervisor.server_process import ServerProcess


def test_a_signal_while_tritonserver_is_started_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody knew of the process, and it kept its ports."""
    calls = []

    class Started:
        def __init__(self, *_: object, **__: object) -> None:
            calls.append("started")
            signal.raise_signal(signal.SIGTERM)

        def stop(self, _timeout_s: float) -> None:
            calls.append("stopped")

    monkeypatch.setattr(server_process, "TritonProcess", Started)
    installation = Installation(
        server=tmp_path / "bin" / "tritonserver",
        backends=tmp_path / "backends",
        libraries=tmp_path / "libs",
        caches=tmp_path / "caches",
    )
    journal = cast("Any", None)  # the signal comes before it is needed
    server = ServerProcess(Repository(tmp_path / "models"), tmp_path, Ports(), Policy(), installation, journal)
    with signals_raise():
        server.start({})
        calls.append("went on")
    server.end()
    assert calls == ["started", "stopped"]
