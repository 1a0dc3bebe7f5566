"""Serve one repository with the embedded server: start, load, prove, watch, recover, drain.

`serve` is the whole life of a supervisor. It holds the lock of the repository's state folder
(`running/state_folders.py`), keeps ports and control key the same through every restart so that clients find the
server again, and brings back exactly the versions that were deployed. A fault of one model is dealt with alone
(`model_recovery.py`); only a server that ended, or that answers nothing any more, is started again.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from resx.errors import MissingCapability, ResxError, ServerError, UsageError
from resx.files.disk_space import OUT_OF_ROOM
from resx.files.staging import write_atomic
from resx.gpus import Wish
from resx.repository import versions_in_use
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.model_folders import is_file, is_folder
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import version_pinning
from resx.serving.deployment.deploy import Deployed, EndpointFailed, Manner, deploy
from resx.serving.embedded import plain_paths
from resx.serving.embedded.python_stub import computes_natively
from resx.serving.embedded.server_folder import folder_of_server, open_again, open_server_folder
from resx.serving.embedded.server_ports import Ports
from resx.serving.embedded.triton_installation import Installation, install
from resx.serving.embedded.triton_process import TritonProcess
from resx.serving.running import logs, processes, version_records
from resx.serving.running import server_state as states
from resx.serving.running.ending_signals import Terminated, signals_raise, without_interruption
from resx.serving.running.self_test_ledger import SelfTestLedger
from resx.serving.running.server_state import Ended, ServerState, running_server
from resx.serving.supervisor import systemd
from resx.serving.supervisor.decisions import History, failed_again, next_step
from resx.serving.supervisor.detaching import serve_detached, stop
from resx.serving.supervisor.draining import drain
from resx.serving.supervisor.health_watch import CanaryWatch, Fault, StubWatch
from resx.serving.supervisor.journal import Journal
from resx.serving.supervisor.model_recovery import ModelRecovery, Running, reload
from resx.serving.supervisor.ownership import own
from resx.serving.supervisor.policy import Policy

__all__ = ["Policy", "ServerState", "running_server", "serve", "serve_detached", "stop"]

_TICK_S = 0.1
_START_TIMEOUT_S = 600.0
_AFTER_DRAINING_S = 1.5
_HOLD_S = 0.5
"""How often the versions are looked up that are held; a mark stands for a new one meanwhile."""
_PASSES = OUT_OF_ROOM | {errno.EROFS}
_ROOM_S = 2.0


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
        self._repository, self._folder, self._ports, self._policy = repository, folder, ports, policy
        self._installation, self._on_step = installation, on_step
        self._server_dir = folder_of_server(installation)
        self._log = folder / states.LOG
        self._process: TritonProcess | None = None
        self._hold = versions_in_use.Hold(repository.root)
        self._links, self._links_folder = contextlib.ExitStack(), folder
        self._held_until_s = 0.0
        self._stubs: StubWatch
        self._history = History()
        self._culprit: str | None = None
        """The model that the server ended with, when it was last started, if it was one."""
        self._key = secrets.token_urlsafe(24)
        write_atomic(folder / states.KEY, self._key, mode=0o600)
        logs.rotate(self._log, max_bytes=0)
        this = processes.this_process()
        state = ServerState(
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
            native=installation.onnxruntime is not None or bool(self._server_dir),
            device=installation.device,
            server_dir=self._server_dir,
            patched=installation.patched,
            log=str(self._log),
        )
        self._journal = Journal(folder, state, on_step)
        self._journal.note(f"serve {repository.root.resolve()}")
        if not os.access(repository.root, os.W_OK):
            self._journal.say(
                f"{repository.root}: cannot be written; `resx gc` of another user keeps what is served here only while "
                "this server runs"
            )
        self._models = ModelRecovery(repository, self._journal, policy)

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
        self._start(resumed)
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
        self._stubs.scan()
        return deployed, errors

    def _leave_out(self, name: str, error: ResxError | OSError) -> ResxError:
        """Set a model aside that fails as the server starts; return its error.

        Raises:
            ServerError: the server ended with it.
        """
        self._running.require_running()
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
            self._recover(fault, detected_s)

    def drain(self) -> None:
        """Let every accepted request be answered."""
        systemd.notify("STOPPING=1")
        if self._process is None or self._process.wait(0):
            return
        self._journal.change(phase="draining")
        self._keep_listable()
        with TritonClient(self.state.address("grpc"), timeout_s=5) as client:
            done = drain(client, self._policy.exit_timeout_s)
        self._journal.note("drained" if done else f"not drained within {self._policy.exit_timeout_s} s")

    def end(self) -> None:
        """End the server, if it lives, and forget it."""
        if self._process is not None:
            self._process.stop(_AFTER_DRAINING_S)
        self._links.close()
        self._hold.change({})
        self._journal.note("ended")
        with contextlib.suppress(OSError):
            (self._folder / states.STATE).unlink(missing_ok=True)

    @property
    def _running(self) -> TritonProcess:
        assert self._process is not None
        return self._process

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
        running = Running(process=self._running, stubs=self._stubs)
        try:
            while True:
                if self._running.wait(_TICK_S):
                    return Fault(reason=self._why_ended())
                for fault in (self._stubs.fault(), canaries.fault()):
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
            self._keep_listable()
            self._held_until_s = time.monotonic() + _HOLD_S

    def _keep_listable(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the path leads where it led
            version_pinning.lead_to_listable(self._repository, self._links_folder)

    def _why_ended(self) -> str:
        try:
            self._running.require_running()
        except ServerError as error:
            return str(error)
        raise AssertionError("asked of a process that lives")

    def _recover(self, fault: Fault, detected_s: float) -> None:
        """Start a new server with what was deployed, try after try."""
        self._history = failed_again(self._history, self._policy, time.monotonic())
        self._journal.say(f"restart the server: {fault.reason}")
        self._journal.change(phase="recovering", trouble=fault.reason)
        error = fault.reason
        while True:
            step = next_step(self._history, self._policy, has_culprit=self._culprit is not None)
            if step == "give up":
                self._give_up(error)
            if step == "set aside":
                self._set_culprit_aside(error)
            time.sleep(self._policy.wait_s(self._history.failed_in_a_row))
            try:
                self._restart()
                break
            except (ResxError, OSError) as failure:
                error = str(failure)
                if isinstance(failure, OSError) and failure.errno in _PASSES:
                    self._wait_for_room(error)
                    continue
                failed = self._history.failed_in_a_row + 1
                self._history = replace(self._history, failed_in_a_row=failed)
                self._journal.say(f"try {failed} of {self._policy.max_tries} failed: {error}")
        self._history = replace(self._history, serving_since_s=time.monotonic())
        self._journal.recovered(fault.reason, detected_s, None)

    def _wait_for_room(self, reason: str) -> None:
        """Let a while pass: a full disk is nothing that the server could be given up for."""
        if self.state.trouble != reason:
            self._journal.say(f"wait for free disk space: {reason}")
            self._journal.change(trouble=reason)
        time.sleep(_ROOM_S)
        self._journal.catch_up()

    def _restart(self) -> None:
        """Start a new server, with the versions that are deployed; models that fail are left to their own recovery.

        After a start that failed they are loaded one after the other: one of them may have ended the server.

        Raises:
            ResxError: the server failed.
        """
        self._running.stop(0.0)
        self._installation = open_again(self._installation)
        self._models.begin_anew()
        self._culprit = None
        versions, one_by_one = version_records.read_deployed(self._repository), self._history.failed_in_a_row > 0
        self._start({} if one_by_one else versions)
        with TritonClient(self.state.address("grpc"), timeout_s=60) as client:
            for name in versions:
                if one_by_one:
                    with contextlib.suppress(ResxError):
                        reload(client, self._repository, name, versions[name], self._server_dir)
                found = self._models.prove(name, versions[name])
                if found and (self._running.wait(_TICK_S) or not client.is_live()):
                    self._culprit = name
                    raise ServerError(found.reason)
                if found:
                    self._models.admit(found)
        self._stubs.scan()

    def _start(self, versions: Mapping[str, tuple[int, ...]]) -> None:
        """Start tritonserver and wait until its ports are open; by then these versions are loaded."""
        self._links.close()
        self._links_folder = self._links.enter_context(plain_paths.links_folder(self._folder))
        installation = plain_paths.plain_installation(self._installation, self._links_folder)
        with version_pinning.pin_versions(self._repository, versions, self._links_folder, self._server_dir) as root:
            # One name that is not there has Triton load none of the others before it opens its ports.
            there = [name for name in versions if is_folder(root / name)]
            self._process = TritonProcess(
                installation,
                root,
                self._ports,
                control_key=self._key,
                log=self._log,
                exit_timeout_s=self._policy.exit_timeout_s,
                load_models=there,
            )
            self._stubs = StubWatch(self._process)
            pid = self._process.pid
            self._journal.change(server_pid=pid, server_start_ticks=processes.start_ticks(pid))
            deadline = time.monotonic() + _START_TIMEOUT_S
            with TritonClient(self.state.address("grpc")) as client:
                while not client.is_live():
                    self._process.require_running()
                    if time.monotonic() > deadline:
                        raise ServerError(f"tritonserver opened no port within {_START_TIMEOUT_S:g} s")
                    time.sleep(0.05)
                if self._server_dir:
                    self._journal.change(server_version=client.server_version())
                try:
                    client.model_versions()
                except MissingCapability as error:  # see hidden_arguments: rare, and the next start mends it
                    raise ServerError("tritonserver received its control key too late; start it again") from error

    def _set_culprit_aside(self, error: str) -> None:
        """Go on without the model that the server ends with."""
        assert self._culprit is not None
        self._models.set_aside(self._culprit, error, is_loaded=False)
        self._culprit, self._history = None, replace(self._history, failed_in_a_row=0)

    def _give_up(self, reason: str) -> NoReturn:
        tries = self._policy.max_tries
        message = f"gave up after {tries} tries in a row: {reason}"
        self._journal.note(message)
        ended = Ended(reason=message, ended=time.time(), restarts=self.state.restarts, log=str(self._log))
        with contextlib.suppress(OSError):
            write_atomic(self._folder / states.ENDED, ended.model_dump_json(indent=2) + "\n", mode=0o600)
        raise ServerError(message if str(self._log) in message else f"{message}; see {self._log}")
