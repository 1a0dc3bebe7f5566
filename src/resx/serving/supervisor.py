"""Serve one repository with the embedded server: start, load, prove, watch, recover, drain.

`serve` is the whole life of a supervisor. It holds the lock of the repository's state folder (`state.py`),
keeps ports and control key the same through every restart so that clients find the server again, and brings
back exactly the versions that were deployed. A fault of one model's process is mended by loading that model
again; whatever else goes wrong, or goes wrong twice, by a new server.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from resx.errors import MissingCapability, ResxError, ServerError, UsageError
from resx.files import write_atomic
from resx.serving import logs, pinned, systemd
from resx.serving import state as states
from resx.serving.client import TritonClient
from resx.serving.deploy import Deployed, canary, deploy
from resx.serving.detached import serve_detached, stop
from resx.serving.draining import drain
from resx.serving.embedded import Installation, Ports, install
from resx.serving.ownership import Terminated, own, signals_raise, without_interruption
from resx.serving.repository import Repository
from resx.serving.state import Ended, Recovery, ServerState, running_server
from resx.serving.triton_config import CONFIG_FILE
from resx.serving.triton_process import TritonProcess
from resx.serving.watch import CanaryWatch, Fault, StubWatch

__all__ = ["Policy", "ServerState", "running_server", "serve", "serve_detached", "stop"]

_TICK_S = 0.1
_START_TIMEOUT_S = 600.0
_AFTER_DRAINING_S = 1.5
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How a server is watched, brought back and ended."""

    exit_timeout_s: int = 10
    """Accepted requests have this long to be answered when the server is told to end."""
    max_tries: int = 5
    """Recoveries that may fail in a row; one that does not hold for a second counts as failed."""
    canary_interval_s: float = 1.0
    """Least time between two canaries of a version."""
    canary_timeout_s: float = 10.0
    """A model that finishes nothing for this long, with a canary waiting, hangs."""

    def __post_init__(self) -> None:
        for name, least in (("exit_timeout_s", 1), ("max_tries", 1), ("canary_interval_s", 0), ("canary_timeout_s", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}: give {least} or more")

    def wait_s(self, failed_in_a_row: int) -> float:
        """Return how long to wait before the next try: nothing at first, then 0.5 s, 1 s and so on to 30 s."""
        return min(0.5 * 2.0 ** (failed_in_a_row - 1), _LONGEST_WAIT_S) if failed_in_a_row else 0.0


def serve(
    repository: Repository, ports: Ports, models: Sequence[str] | None, *, policy: Policy, native: bool = False,
    on_step: Callable[[str], None], on_ready: Callable[[ServerState, list[Deployed], list[ResxError]], None],
) -> None:  # fmt: skip
    """Serve the repository until SIGINT or SIGTERM; ready once every model answered its canary.

    A model that fails does not keep the others from being served; its error is among those given to
    `on_ready`.

    Args:
        repository: what to serve.
        ports: where, on loopback.
        models: the newest version of each. None: what was served when the last supervisor was killed, exactly,
            or else the newest version of every model.
        policy: how it is watched, brought back and ended.
        native: compute in the server itself, not in a Python process for each instance.
        on_step: told what comes next.
        on_ready: told once.

    Raises:
        UsageError: the repository is served already, a port is taken, or a model is not there.
        MissingCapability: the server, or its native backend, cannot be had here.
        ServerError: the server ended by itself while it started, or could not be brought back.
    """
    for name in models or []:
        repository.version_folder(name)
    importlib.import_module("tritonclient.grpc")  # a signal in the middle of it would leave nothing to drain with
    with signals_raise(), own(repository) as (folder, left), ports.held() as held:
        server = _Server(repository, folder, held, policy, install(on_step, native=native), on_step)
        try:
            resumed = left if models is None else {}
            wanted = models if models is not None else [] if resumed else repository.names()
            for name in set(states.deployed(repository)) - set(resumed):
                states.record_deployed(repository, name, [])
            deployed, errors = server.begin(resumed, wanted)
            on_ready(server.state, deployed, errors)
            server.watch()
        except Terminated:
            on_step("stop: finish what was accepted, refuse what is new")
            without_interruption(server.drain)
        finally:
            without_interruption(server.end)


class _Server:
    """The server of one supervisor, through all its restarts."""

    def __init__(
        self, repository: Repository, folder: Path, ports: Ports, policy: Policy, installation: Installation,
        on_step: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._repository, self._folder, self._ports, self._policy = repository, folder, ports, policy
        self._installation, self._on_step = installation, on_step
        self._log = folder / states.LOG
        self._process: TritonProcess | None = None
        self._stubs: StubWatch
        self._failed_in_a_row = 0
        self._culprit: str | None = None
        """The model that a recovery failed for, if it was one."""
        self._serving_since_s = float("-inf")
        """Of the last recovery; what fails soon after a first start is not a recovery that did not hold."""
        self._key = secrets.token_urlsafe(24)
        write_atomic(folder / states.KEY, self._key, mode=0o600)
        logs.rotate(self._log, max_bytes=0)
        logs.append(self._log, f"serve {repository.root.resolve()}")
        self.state = ServerState(
            pid=os.getpid(), server_pid=0, repository=str(repository.root.resolve()),
            http_port=ports.http, grpc_port=ports.grpc, metrics_port=ports.metrics,
            started=time.time(), started_s=states.now_s(), exit_timeout_s=policy.exit_timeout_s,
            native=installation.onnxruntime is not None, log=str(self._log),
        )  # fmt: skip

    def begin(
        self, resumed: Mapping[str, tuple[int, ...]], models: Sequence[str]
    ) -> tuple[list[Deployed], list[ResxError]]:
        """Start the server, with the versions that are resumed, then deploy the newest of the other models."""
        self._on_step("start tritonserver")
        self._start(resumed)
        deployed, errors = [], []
        # The key is read back from its file: what works here works for every later client.
        with TritonClient(self.state.address("grpc")) as client:
            for name, versions in resumed.items():
                self._on_step(f"resume {name} version {versions[-1]}, as the server that was killed had it")
                self._prove(client, name, versions)
            for name in models:
                self._on_step(f"load {name} and check its answer")
                try:
                    deployed.append(deploy(client, self._repository, name))
                    states.record_deployed(self._repository, name, [deployed[-1].version])
                except ResxError as error:
                    self._running.require_running()
                    errors.append(error)
                    logs.append(self._log, f"not loaded: {error}")
        self._stubs.scan()
        return deployed, errors

    def watch(self) -> None:
        """Let others find the server, and look after it until a signal comes.

        Raises:
            ServerError: it could not be brought back.
        """
        self._write_state(phase="serving")
        logs.append(self._log, "ready")
        systemd.notify("READY=1")
        while True:
            fault, detected_s = self._next_fault(), states.now_s()
            self._recover(fault, detected_s)

    def drain(self) -> None:
        """Let every accepted request be answered."""
        systemd.notify("STOPPING=1")
        if self._process is None or self._process.wait(0):
            return
        self._write_state(phase="draining")
        with TritonClient(self.state.address("grpc"), timeout_s=5) as client:
            done = drain(client, self._policy.exit_timeout_s)
        logs.append(self._log, "drained" if done else f"not drained within {self._policy.exit_timeout_s} s")

    def end(self) -> None:
        """End the server, if it lives, and forget it."""
        if self._process is not None:
            self._process.stop(_AFTER_DRAINING_S)
        logs.append(self._log, "ended")
        (self._folder / states.STATE).unlink(missing_ok=True)

    @property
    def _running(self) -> TritonProcess:
        assert self._process is not None
        return self._process

    def _next_fault(self) -> Fault:
        """Wait until something is wrong."""
        canaries = CanaryWatch(
            self.state.address("grpc"), self._repository, lambda: states.deployed(self._repository),
            interval_s=self._policy.canary_interval_s, timeout_s=self._policy.canary_timeout_s,
        )  # fmt: skip
        canaries.start()
        try:
            while True:
                if self._running.wait(_TICK_S):
                    return Fault(reason=self._why_ended())
                if fault := self._stubs.fault() or canaries.fault:
                    return fault
                for log in (self._log, self._folder / states.OWN_LOG):
                    logs.rotate(log)
        finally:
            canaries.stop()

    def _why_ended(self) -> str:
        try:
            self._running.require_running()
        except ServerError as error:
            return str(error)
        raise AssertionError("asked of a process that lives")

    def _recover(self, fault: Fault, detected_s: float) -> None:
        """Bring back what was deployed, try after try."""
        held_s = time.monotonic() - self._serving_since_s
        if held_s >= max(1.0, 2 * self._policy.wait_s(self._failed_in_a_row)):
            self._failed_in_a_row = 0
        else:
            self._failed_in_a_row += 1
        self._say(f"recover: {fault.reason}")
        self._write_state(phase="recovering", trouble=fault.reason)
        versions, error = states.deployed(self._repository), fault.reason
        self._culprit = fault.model
        while True:
            if self._failed_in_a_row >= self._policy.max_tries:
                versions = self._set_aside_or_give_up(versions, error)
                error = f"{fault.reason}; set aside"
            time.sleep(self._policy.wait_s(self._failed_in_a_row))
            try:
                is_first = self._failed_in_a_row == 0 and fault.model in {None, *versions}
                self._bring_back(fault if is_first else Fault(reason=error), versions)
                break
            except ResxError as failure:
                self._failed_in_a_row += 1
                error = str(failure)
                self._say(f"try {self._failed_in_a_row} of {self._policy.max_tries} failed: {error}")
        recovery = Recovery(reason=fault.reason, detected_s=detected_s, serving_s=states.now_s())
        self._serving_since_s = time.monotonic()
        self._write_state(
            phase="serving", trouble="", restarts=self.state.restarts + 1, last_recovery=recovery
        )  # fmt: skip
        self._say(f"serving again after {recovery.serving_s - recovery.detected_s:.1f} s")

    def _bring_back(self, fault: Fault, versions: Mapping[str, tuple[int, ...]]) -> None:
        """Load the model whose process died again, or start a new server; the versions must then answer."""
        mended = fault.model
        if mended is None or not (self._repository.root / mended / CONFIG_FILE).exists():
            self._running.stop(0.0)
            self._start(versions)
            mended = None
        with TritonClient(self.state.address("grpc"), timeout_s=60) as client:
            if mended and mended in versions:
                client.load(mended, pinned.reloading_json(self._repository, mended, versions[mended]))
            elif mended:  # nobody deployed it, so nobody proved it
                client.unload(mended)
            for name in versions:
                if mended in {None, name}:
                    self._prove(client, name, versions[name])
        self._stubs.scan()

    def _start(self, versions: Mapping[str, tuple[int, ...]]) -> None:
        """Start tritonserver and wait until its ports are open; by then these versions are loaded."""
        with contextlib.ExitStack() as stack:
            root = self._repository.root.resolve()
            if versions:
                root = stack.enter_context(pinned.pinned_repository(self._repository, versions, self._folder))
            self._process = TritonProcess(
                self._installation, root, self._ports, control_key=self._key, log=self._log,
                exit_timeout_s=self._policy.exit_timeout_s, load_models=list(versions),
            )  # fmt: skip
            self._stubs = StubWatch(self._process)
            self.state = self.state.model_copy(update={"server_pid": self._process.pid})
            deadline = time.monotonic() + _START_TIMEOUT_S
            with TritonClient(self.state.address("grpc")) as client:
                while not client.is_live():
                    self._process.require_running()
                    if time.monotonic() > deadline:
                        raise ServerError(f"tritonserver opened no port within {_START_TIMEOUT_S:g} s")
                    time.sleep(0.05)
                try:
                    client.model_versions()
                except MissingCapability as error:  # see hidden_arguments: rare, and the next start mends it
                    raise ServerError("tritonserver was told its control key too late; start it again") from error

    def _set_aside_or_give_up(self, versions: Mapping[str, tuple[int, ...]], error: str) -> dict[str, tuple[int, ...]]:
        """Return what is left to serve without the model that fails; one broken model must not end the others.

        Raises:
            ServerError: it is the server itself that fails, or nothing would be left.
        """
        name = self._culprit
        rest = {other: there for other, there in versions.items() if other != name}
        if name is None or name not in versions or not rest:
            self._give_up(error)
        self._say(f"{name} is set aside after {self._policy.max_tries} tries: {error}")
        states.record_deployed(self._repository, name, [])
        self._write_state(set_aside=self.state.set_aside | {name: error})
        self._culprit, self._failed_in_a_row = None, 0
        return rest

    def _prove(self, client: TritonClient, name: str, versions: Sequence[int]) -> None:
        try:
            self._prove_versions(client, name, versions)
        except ResxError:
            self._culprit = name
            raise

    def _prove_versions(self, client: TritonClient, name: str, versions: Sequence[int]) -> None:
        for version in versions:
            if version not in client.model_versions().get(name, []):
                raise ServerError(f"{name} version {version} did not load; see {self._log}")
            with contextlib.suppress(UsageError):
                card = self._repository.card(name, version)
                canary(client, name, version, card)

    def _give_up(self, reason: str) -> NoReturn:
        tries = self._policy.max_tries
        message = f"gave up after {tries} tries in a row: {reason}"
        logs.append(self._log, message)
        ended = Ended(reason=message, ended=time.time(), restarts=self.state.restarts, log=str(self._log))
        write_atomic(self._folder / states.ENDED, ended.model_dump_json(indent=2) + "\n", mode=0o600)
        raise ServerError(message if str(self._log) in message else f"{message}; see {self._log}")

    def _say(self, text: str) -> None:
        logs.append(self._log, text)
        self._on_step(text)
        systemd.notify(f"STATUS={text}")

    def _write_state(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        states.write_state(self._folder, self.state)
