"""Serve one repository with the embedded server: start, load, prove, watch, recover, drain.

`serve` is the whole life of a supervisor. It holds the lock of the repository's state folder
(`running/state_folders.py`), keeps ports and control key the same through every restart so that clients find the
server again, and brings back exactly the versions that were deployed. A fault of one model is dealt with alone
(`model_recovery.py`); only a server that ended, or that answers nothing any more, is started again.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from resx.errors import ResxError, ServerError, UsageError
from resx.gpus import Wish
from resx.repository import versions_in_use
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.model_folders import is_file
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import Deployed, EndpointFailed, Manner, deploy
from resx.serving.embedded.installation.python_stub import computes_natively
from resx.serving.embedded.installation.triton_installation import Installation, install
from resx.serving.embedded.server_folder import folder_of_server, open_server_folder
from resx.serving.embedded.server_ports import Ports
from resx.serving.running import logs, processes, version_records
from resx.serving.running import server_state as states
from resx.serving.running.ending_signals import Terminated, signals_raise, without_interruption
from resx.serving.running.self_test_ledger import SelfTestLedger
from resx.serving.running.server_state import ServerState, running_server
from resx.serving.supervisor import systemd
from resx.serving.supervisor.detaching import serve_detached, stop
from resx.serving.supervisor.draining import drain
from resx.serving.supervisor.health_watch import CanaryWatch, Fault
from resx.serving.supervisor.journal import Journal
from resx.serving.supervisor.model_recovery import ModelRecovery, Running
from resx.serving.supervisor.ownership import own
from resx.serving.supervisor.policy import Policy
from resx.serving.supervisor.server_process import ServerProcess
from resx.serving.supervisor.server_recovery import ServerRecovery

__all__ = ["Policy", "ServerState", "running_server", "serve", "serve_detached", "stop"]

_TICK_S, _IDLE_TICK_S = 0.1, 0.25
"""Between two looks at models that have a fault, and at those that have none; the end of a process is seen at once."""
_HOLD_S = 0.5
"""How often the versions are looked up that are held; a mark stands for a new one meanwhile."""


def serve(
    repository: Repository,
    ports: Ports,
    models: Sequence[str] | None,
    *,
    policy: Policy,
    native: bool | None = None,
    device: Wish = "auto",
    server_dir: str = "",
    on_step: Callable[[str], None],
    on_ready: Callable[[ServerState, list[Deployed], list[ResxError]], None],
) -> None:
    """Serve the repository until SIGINT or SIGTERM; ready once every model answered its canary.

    A model that fails, at the start or later, does not keep the others from being served, nor does it end the
    server, even if it is the only one; its error is among those given to `on_ready`.

    Args:
        repository: what to serve.
        ports: where, on loopback.
        models: of each the version that was deployed last, or else its newest. None: what was served when the last
            supervisor was killed, exactly, or else every model that was not undeployed.
        policy: how it is watched, brought back and ended.
        native: compute in the server itself, not in a Python process for each instance; None: where those cannot be.
        device: what to compute on; `auto` takes the GPU where there is one.
        server_dir: the folder of another Triton's files to serve with; nothing for resx's own server.
        on_step: told what comes next.
        on_ready: told once.

    Raises:
        UsageError: the repository is served already, a port is taken, or a model is not there.
        MissingCapability: the server, its native backend or the device cannot be had here.
        ServerError: the server ended by itself while it started, or could not be brought back.
    """
    for name in models or []:
        repository.version_folder(name)
    importlib.import_module("tritonclient.grpc")  # a signal in the middle of it would leave nothing to drain with
    with signals_raise(), own(repository) as (folder, left, aside), ports.held() as held:
        if server_dir:
            installed: Installation = open_server_folder(server_dir, device)
        else:
            installed = install(on_step, native=computes_natively(native), wish=device)
        server = _Server(repository, folder, held, policy, installed, on_step)
        try:
            resumed = left if models is None else {}
            if resumed:
                server.remember(aside)
            wanted = {} if resumed else _to_start(repository, models)
            for name in set(version_records.read_deployed(repository)) - set(resumed):
                server.leave_behind(name)
            deployed, errors = server.begin(resumed, wanted)
            on_ready(server.state, deployed, errors)
            server.watch()
        except Terminated:
            on_step("stopping: finishing in-flight requests, refusing new ones")
            without_interruption(server.drain)
        finally:
            without_interruption(server.end)


def _to_start(repository: Repository, models: Sequence[str] | None) -> dict[str, int | None]:
    """Return the models to start with and the version of each that was deployed last; None: the newest."""
    found: dict[str, int | None] = {}
    for name in repository.names() if models is None else models:
        choice = version_records.read_chosen(repository, name).get(version_records.OURS)
        if choice == () and models is None:
            continue
        has_config = is_file(repository.root / name / CONFIG_FILE)  # without one Triton loads the newest
        found[name] = version_records.version_to_start(repository, name) if has_config else None
    return found


def _first_state(
    repository: Repository, ports: Ports, policy: Policy, installation: Installation, log: Path
) -> ServerState:
    """Return what is known of a server before its process starts."""
    this, server_dir = processes.this_process(), folder_of_server(installation)
    return ServerState(
        pid=this.pid,
        start_ticks=this.start_ticks,
        executable=this.executable,
        server_pid=0,
        repository=str(repository.root.resolve()),
        http_port=ports.http,
        grpc_port=ports.grpc,
        metrics_port=ports.metrics,
        started=time.time(),
        started_s=states.now_s(),
        exit_timeout_s=policy.exit_timeout_s,
        native=installation.onnxruntime is not None or bool(server_dir),
        device=installation.device,
        server_dir=server_dir,
        patched=installation.patched,
        log=str(log),
    )


class _Server:
    """The server of one supervisor, through all its restarts."""

    def __init__(
        self,
        repository: Repository,
        folder: Path,
        ports: Ports,
        policy: Policy,
        installation: Installation,
        on_step: Callable[[str], None],
    ) -> None:
        self._repository, self._folder, self._policy, self._on_step = repository, folder, policy, on_step
        self._server_dir = folder_of_server(installation)
        self._log = folder / states.LOG
        self._hold = versions_in_use.Hold(repository.root)
        self._held_until_s = 0.0
        logs.rotate(self._log, max_bytes=0)
        self._journal = Journal(folder, _first_state(repository, ports, policy, installation, self._log), on_step)
        self._journal.note(f"serve {repository.root.resolve()}")
        if not os.access(repository.root, os.W_OK):
            self._journal.say(
                f"{repository.root}: cannot be written; `resx gc` of another user keeps what is served here only while "
                "this server runs"
            )
        self._process = ServerProcess(repository, folder, ports, policy, installation, self._journal)
        self._models = ModelRecovery(repository, self._journal, policy)
        self._recovery = ServerRecovery(repository, folder, self._process, self._models, self._journal, policy)

    @property
    def state(self) -> ServerState:
        """What others are told."""
        return self._journal.state

    def remember(self, set_aside: Mapping[str, str]) -> None:
        """Go on saying which models the server before had set aside."""
        self._journal.change(set_aside=dict(set_aside))

    def leave_behind(self, name: str) -> None:
        """Forget a model that the server before had, or say why it does not come back."""
        try:
            self._repository.require_readable(name)
        except UsageError as error:
            self._models.set_aside(name, str(error), is_loaded=False)
        version_records.record_deployed(self._repository, name, [])

    def begin(
        self, resumed: Mapping[str, tuple[int, ...]], models: Mapping[str, int | None]
    ) -> tuple[list[Deployed], list[ResxError]]:
        """Start the server, with the versions that are resumed, then deploy the other models; None: the newest."""
        self._hold.change(resumed)
        for name, versions in resumed.items():
            # This marks again what somebody thought was gone.
            version_records.record_deployed(self._repository, name, versions)
        self._on_step("start tritonserver")
        self._process.start(resumed)
        deployed, errors = [], []
        starting = Manner(starting=True, server_dir=self._server_dir)
        # The key is read back from its file: what works here works for every later client.
        with TritonClient(self.state.address("grpc")) as client:
            for name, versions in resumed.items():
                if name not in version_records.read_deployed(self._repository):  # it went with a model that it needs
                    continue
                self._on_step(f"resume {name} version {versions[-1]}, which the killed server had loaded")
                if fault := self._models.prove(name, versions):
                    errors.append(self._leave_out(name, ServerError(fault.reason)))
            for name, version in models.items():
                self._on_step(f"load {name} and check its answer")
                try:
                    deployed.append(deploy(client, self._repository, name, version, manner=starting))
                except EndpointFailed as error:
                    self._journal.note(f"not loaded: {error}")
                    errors.append(error)
                except (ResxError, OSError) as error:
                    errors.append(self._leave_out(name, error))
        self._process.stubs.scan()
        return deployed, errors

    def _leave_out(self, name: str, error: ResxError | OSError) -> ResxError:
        """Set a model aside that fails as the server starts; return its error.

        Raises:
            ServerError: the server ended with it.
        """
        self._process.running.require_running()
        self._journal.note(f"not loaded: {error}")
        self._models.take_out(name, str(error))
        return error if isinstance(error, ResxError) else ServerError(f"{name}: {error}")

    def watch(self) -> None:
        """Let others find the server, and look after it until a signal comes.

        Raises:
            ServerError: it could not be brought back.
        """
        self._journal.publish()
        self._journal.note("ready")
        systemd.notify("READY=1")
        while True:
            fault, detected_s = self._next_fault(), states.now_s()
            self._recovery.recover(fault, detected_s)

    def drain(self) -> None:
        """Let every accepted request be answered."""
        systemd.notify("STOPPING=1")
        if self._process.has_ended:
            return
        self._journal.change(phase="draining")
        self._process.keep_listable()
        with TritonClient(self.state.address("grpc"), timeout_s=5) as client:
            done = drain(client, self._policy.exit_timeout_s)
        self._journal.note("drained" if done else f"not drained within {self._policy.exit_timeout_s} s")

    def end(self) -> None:
        """End the server, if it lives, and forget it."""
        self._process.end()
        self._hold.change({})
        self._journal.note("ended")
        with contextlib.suppress(OSError):
            (self._folder / states.STATE).unlink(missing_ok=True)

    def _next_fault(self) -> Fault:
        """Look after the models until something is wrong with the server."""
        canaries = CanaryWatch(
            self.state.address("grpc"),
            self._repository,
            self._models.healthy,
            ledger=SelfTestLedger(self._folder, self._repository),
            interval_s=self._policy.canary_interval_s,
            timeout_s=self._policy.canary_timeout_s,
        )
        canaries.start()
        running = Running(process=self._process.running, stubs=self._process.stubs)
        try:
            while True:
                is_busy = self._models.is_under_way or running.stubs.is_in_doubt
                if running.process.wait(_TICK_S if is_busy else _IDLE_TICK_S, running.stubs.alive):
                    return Fault(reason=self._process.why_ended())
                for fault in (self._process.stubs.fault(), canaries.fault()):
                    if fault and fault.model is None:
                        return fault
                    if fault:
                        self._models.admit(fault)
                if fault := self._models.treat(running):
                    return fault
                self._models.welcome_back()
                self._hold_served()
                self._journal.catch_up()
                for log in (self._log, self._folder / states.OWN_LOG):
                    logs.rotate(log)
        finally:
            canaries.stop()

    def _hold_served(self) -> None:
        """Keep what is deployed from being deleted, whoever runs `resx gc`, and Triton's list of models readable."""
        if time.monotonic() >= self._held_until_s:
            self._hold.change(version_records.read_deployed(self._repository))
            self._process.keep_listable()
            self._held_until_s = time.monotonic() + _HOLD_S
