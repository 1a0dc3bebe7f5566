"""The tritonserver of one supervisor, started again and again: on the same ports, with the same control key."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from resx.errors import MissingCapability, ServerError
from resx.files.staging import write_atomic
from resx.repository.model_folders import is_folder
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import version_pinning
from resx.serving.embedded import plain_paths
from resx.serving.embedded.installation.triton_installation import Installation
from resx.serving.embedded.server_folder import folder_of_server, open_again
from resx.serving.embedded.server_ports import Ports
from resx.serving.embedded.triton_process import TritonProcess
from resx.serving.running import processes
from resx.serving.running import server_state as states
from resx.serving.running.ending_signals import held_signals
from resx.serving.supervisor.health_watch import StubWatch
from resx.serving.supervisor.journal import Journal
from resx.serving.supervisor.policy import Policy

_START_TIMEOUT_S = 600.0
_KEY_TRIES = 3
_AFTER_DRAINING_S = 1.5


class ServerProcess:
    """The process that runs now, if one does, and what it takes to start the next."""

    def __init__(
        self,
        repository: Repository,
        folder: Path,
        ports: Ports,
        policy: Policy,
        installation: Installation,
        journal: Journal,
    ) -> None:
        self._repository, self._folder, self._ports, self._policy = repository, folder, ports, policy
        self._installation, self._journal = installation, journal
        self._server_dir = folder_of_server(installation)
        self._process: TritonProcess | None = None
        self._links, self._links_folder = contextlib.ExitStack(), folder
        self._key = secrets.token_urlsafe(24)
        write_atomic(folder / states.KEY, self._key, mode=0o600)
        self.stubs: StubWatch
        """Of the process that runs now."""

    @property
    def running(self) -> TritonProcess:
        """The process that was started last."""
        assert self._process is not None
        return self._process

    @property
    def has_ended(self) -> bool:
        """Whether none was started, or it has ended."""
        return self._process is None or self._process.wait(0)

    def why_ended(self) -> str:
        """Return why the process ended, of one that has."""
        try:
            self.running.require_running()
        except ServerError as error:
            return str(error)
        raise AssertionError("asked of a process that lives")

    def start(self, versions: Mapping[str, tuple[int, ...]]) -> None:
        """Start tritonserver and wait until its ports are open; by then these versions are loaded.

        Raises:
            ServerError: it ended, opened no port, or received its key too late several times.
        """
        self._links.close()
        self._links_folder = self._links.enter_context(plain_paths.links_folder(self._folder))
        installation = plain_paths.plain_installation(self._installation, self._links_folder)
        with version_pinning.pin_versions(self._repository, versions, self._links_folder, self._server_dir) as root:
            # One name that is not there has Triton load none of the others before it opens its ports.
            there = [name for name in versions if is_folder(root / name)]
            for _ in range(_KEY_TRIES):
                if self._start_once(installation, root, there):
                    return
                self._journal.note("tritonserver received its control key too late, and is ended")
                self.running.stop(0.0)
        raise ServerError("tritonserver received its control key too late each time; start it again")

    def _start_once(self, installation: Installation, root: Path, models: list[str]) -> bool:
        """Start the process with these models; say whether it takes its key, which on a busy machine can be late."""
        with held_signals():
            self._process = TritonProcess(
                installation,
                root,
                self._ports,
                control_key=self._key,
                log=self._folder / states.LOG,
                exit_timeout_s=self._policy.exit_timeout_s,
                load_models=models,
            )
        self.stubs = StubWatch(self._process)
        pid = self._process.pid
        self._journal.change(server_pid=pid, server_start_ticks=processes.start_ticks(pid))
        return self._is_live_with_its_key(self._process)

    def _is_live_with_its_key(self, process: TritonProcess) -> bool:
        """Wait until the ports are open; say whether the key is taken (see hidden_arguments)."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        with TritonClient(self._journal.state.address("grpc")) as client:
            while not client.is_live():
                process.require_running()
                if time.monotonic() > deadline:
                    raise ServerError(f"tritonserver opened no port within {_START_TIMEOUT_S:g} s")
                time.sleep(0.05)
            if self._server_dir:
                self._journal.change(server_version=client.server_version())
            try:
                client.model_versions()
            except MissingCapability:
                return False
            return True

    def end_for_restart(self) -> None:
        """End the process at once, and look again for the files that the next one is started from."""
        self.running.stop(0.0)
        self._installation = open_again(self._installation)

    def end(self) -> None:
        """End the process, if it lives, and remove its links."""
        if self._process is not None:
            self._process.stop(_AFTER_DRAINING_S)
        self._links.close()

    def keep_listable(self) -> None:
        """Keep Triton's list of models readable."""
        with contextlib.suppress(OSError):  # a full disk: the path leads where it led
            version_pinning.lead_to_listable(self._repository, self._links_folder)
