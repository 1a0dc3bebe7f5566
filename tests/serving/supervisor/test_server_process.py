"""The process that a supervisor starts: it has its key, and is ended with it, whenever the signal comes."""

import os
import signal
from pathlib import Path
from typing import Any, Self, cast

import pytest

from resx.errors import MissingCapability, ServerError
from resx.repository.versions import Repository
from resx.serving.embedded.installation.triton_installation import Installation
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.ending_signals import signals_raise
from resx.serving.supervisor import server_process
from resx.serving.supervisor.journal import Journal
from resx.serving.supervisor.policy import Policy
from resx.serving.supervisor.server_process import ServerProcess


def new_server(folder: Path, journal: Journal) -> ServerProcess:
    installation = Installation(
        server=folder / "bin" / "tritonserver",
        backends=folder / "backends",
        libraries=folder / "libs",
        caches=folder / "caches",
    )
    return ServerProcess(Repository(folder / "models"), folder, Ports(), Policy(), installation, journal)


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
    server = new_server(tmp_path, cast("Any", None))  # the signal comes before the journal is needed
    with signals_raise():
        server.start({})
        calls.append("went on")
    server.end()
    assert calls == ["started", "stopped"]


@pytest.mark.parametrize("late", [0, 1, 2, 3])
def test_a_server_that_received_its_key_too_late_is_started_again(
    late: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is put in place while the process is being linked; on a busy machine that can come too late."""
    calls: list[str] = []

    class Started:
        pid = os.getpid()

        def __init__(self, *_: object, **__: object) -> None:
            calls.append("started")

        def stop(self, _timeout_s: float) -> None:
            calls.append("stopped")

    class Client:
        def __init__(self, _address: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def is_live(self) -> bool:
            return True

        def model_versions(self) -> None:
            if calls.count("started") <= late:
                raise MissingCapability("it takes another key")

    class Silent(Journal):
        def __init__(self) -> None:
            self.state = cast("Any", type("State", (), {"address": lambda *_: None}))

        def note(self, text: str) -> None:
            calls.append(text.partition(" too late")[0])

        def change(self, **_: object) -> None: ...

    monkeypatch.setattr(server_process, "TritonProcess", Started)
    monkeypatch.setattr(server_process, "TritonClient", Client)
    server = new_server(tmp_path, Silent())
    again = ["tritonserver received its control key", "stopped"]
    if late < 3:
        server.start({})
        assert calls == ["started", *([*again, "started"] * late)]
    else:
        with pytest.raises(ServerError, match="too late each time"):
            server.start({})
        assert calls == ["started", *again] * 3
