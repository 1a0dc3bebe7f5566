"""One tritonserver process with its python stubs: started, watched through /proc, ended without remains."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from resx.errors import ServerError
from resx.serving.client.address import CONTROL_HEADER
from resx.serving.client.loopback import LOOPBACK
from resx.serving.embedded.installation.triton_installation import (
    RESPONSE_CACHE_BYTES,
    RESTRICTED_APIS,
    Installation,
    last_error,
)
from resx.serving.embedded.patches import hidden_arguments
from resx.serving.embedded.server_folder import ServerFolder, fitting, server_environment
from resx.serving.embedded.server_ports import Ports
from resx.serving.running import logs, processes
from resx.serving.running.ending_signals import held_signals
from resx.serving.running.processes import all_processes, children, ending_of, is_own, sleep_until_end, stat_fields

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives
STUB = "triton_python_backend_stub"
STACK_BYTES = 64 * 2**20
_RESTRICTIONS = tuple(
    f"{flag}={RESTRICTED_APIS}:{CONTROL_HEADER}=" for flag in ("--http-restricted-api", "--grpc-restricted-protocol")
)
_HIDING_TRIES = 3
_KEY_SHOWN = "the control key is visible to every user in the process list: {}"
_KILL_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stub:
    """A python process that computes one instance of a model's version."""

    model: str
    version: int


class TritonProcess:
    """A running tritonserver, a session of its own with its stubs, that dies with this process."""

    def __init__(
        self,
        installation: Installation,
        repository: Path,
        ports: Ports,
        *,
        control_key: str,
        log: Path,
        exit_timeout_s: int,
        load_models: Sequence[str] = (),
    ) -> None:
        """Start the server in explicit control mode; its ports open once `load_models` are loaded, or failed to."""
        self._shm_prefix = shared_memory_prefix(os.getpid(), ports.http)
        self._repository = repository
        arguments = [
            str(installation.server),
            f"--model-repository={repository}",
            f"--backend-directory={installation.backends}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in load_models),
            "--exit-on-error=false",
            *(f"--{service}-address={LOOPBACK}" for service in ("http", "grpc", "metrics")),
            # AIP_MODE=PREDICTION in the environment turns the first two off and the third on, on 0.0.0.0.
            "--allow-http=true",
            "--allow-grpc=true",
            "--allow-vertex-ai=false",
            "--allow-sagemaker=false",
            f"--http-port={ports.http}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-port={ports.metrics}",
            # Medians: Triton's statistics extension has sums alone.
            "--metrics-config=summary_latencies=true",
            "--metrics-config=summary_quantiles=0.5:0.05,0.9:0.01,0.99:0.001",
            f"--exit-timeout-secs={exit_timeout_s}",
            f"--cache-directory={installation.caches}",
            f"--cache-config=local,size={RESPONSE_CACHE_BYTES}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
        ]
        if installation.onnxruntime:
            arguments.append(f"--backend-config=onnxruntime,library={installation.onnxruntime}")
        self._log = log
        environment = server_environment(installation)
        with_key = [*arguments, *(f"{restriction}{control_key}" for restriction in _RESTRICTIONS)]
        if isinstance(installation, ServerFolder):
            with_key = fitting(with_key, installation)
        hidden = None
        if installation.patched:
            hidden = self._with_hidden_key(arguments, environment, control_key)
        else:
            whose = "another's program" if isinstance(installation, ServerFolder) else "an unpatched program"
            logs.append(log, _KEY_SHOWN.format(f"{whose} is left as it is"))
        self._process = hidden or self._spawn(with_key, environment)

    def _with_hidden_key(
        self, arguments: Sequence[str], environment: Mapping[str, str], control_key: str
    ) -> subprocess.Popen[bytes] | None:
        """Start the server with a key that the process list does not show; None where that cannot be."""
        decoys = [f"{restriction}{secrets.token_urlsafe(24)}" for restriction in _RESTRICTIONS]
        variables = {restriction: f"RESX_RESTRICTION_{number}" for number, restriction in enumerate(_RESTRICTIONS)}
        hidden = {variable: f"{restriction}{control_key}" for restriction, variable in variables.items()}
        reason = "too late each time"
        for _ in range(_HIDING_TRIES):
            process = self._spawn([*arguments, *decoys], {**environment, **hidden})
            try:
                if hidden_arguments.turn(process.pid, len(arguments) + len(decoys), variables):
                    return process
            except OSError as error:
                reason = error.strerror or str(error)
            process.kill()
            process.wait()
        logs.append(self._log, _KEY_SHOWN.format(reason))
        return None

    def _spawn(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self._open_log() as output:
            # In a folder of our own: the python stub takes modules from the one it is started in before all others.
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self._log.parent,
                start_new_session=True,
                preexec_fn=_prepare_child,
            )

    def _open_log(self) -> BinaryIO:
        try:
            return self._log.open("ab")
        except OSError:  # read-only by now: the server comes back all the same
            return Path(os.devnull).open("ab")

    @property
    def pid(self) -> int:
        """The server's process id, and that of its process group."""
        return self._process.pid

    def require_running(self) -> None:
        """Check that the process lives.

        Raises:
            ServerError: it ended; the message holds the last error of its log.
        """
        with held_signals():
            code = self._process.poll()
        if code is not None:
            why = f": {last_error(self._log)}; see {self._log}" if code >= 0 else ""
            raise ServerError(f"tritonserver {ending_of(code)}{why}")

    def wait(self, timeout_s: float, stubs: Iterable[int] = ()) -> bool:
        """Wait for the process to end, or one of these stubs; say whether the process did."""
        with held_signals():
            if self._process.poll() is None and not sleep_until_end([self.pid, *stubs], timeout_s):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout_s)
            return self._process.poll() is not None

    def stubs(self) -> dict[int, Stub]:
        """Return the server's python processes that live, by id; those of the repository's models alone.

        A model whose files came with the request, as in a rehearsal, is not the repository's: its end is the
        business of whoever loaded it.
        """
        return {pid: stub for pid in children(self.pid) if (stub := _stub(pid, self._repository))}

    def kill_stubs(self, model: str, *, only_stopped: bool = False) -> bool:
        """End a model's python processes by force and wait until they are dead; say whether it had any.

        `only_stopped`: those that a signal stopped, or a tracer: Triton would leave them behind when it loads anew.
        """
        pids = [pid for pid, stub in self.stubs().items() if stub.model == model]
        pids = [pid for pid in pids if not only_stopped or stat_fields(pid)[:1] in (["T"], ["t"])]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_S
        while any(_command_line(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(pids)

    def stop(self, timeout_s: float) -> None:
        """End the server and its stubs, by force after `timeout_s`, and remove their shared memory."""
        with held_signals():
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                self.wait(timeout_s)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        _reap(self.pid)
        remove_shared_memory(self._shm_prefix)


def shared_memory_prefix(supervisor_pid: int, http_port: int) -> str:
    """Return how the names of a server's shared-memory regions begin."""
    return f"resx-{supervisor_pid}-{http_port}-"


def remove_shared_memory(prefix: str) -> None:
    """Delete the regions of a server that is gone."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def remove_remains(server_pid: int, supervisor_pid: int, http_port: int, *, start_ticks: int = 0) -> None:
    """End the server of a supervisor that was killed, and stubs that outlived it, and remove their shared memory.

    Their command lines carry the supervisor's id and its port, so no other process that got their id is met; nor is one
    of another user, or one that began at another time than the server (`start_ticks`, 0 where it is not known). A stub
    sees that its server died unless that held the lock which both of them take: then it waits for ever.
    """
    prefix = shared_memory_prefix(supervisor_pid, http_port)
    is_server = is_own(server_pid) and start_ticks in (0, processes.start_ticks(server_pid))
    if is_server and any(argument.endswith(f"={prefix}") for argument in _command_line(server_pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server_pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while _command_line(server_pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    for pid in all_processes():
        words = _command_line(pid)
        is_stub = bool(words) and Path(words[0]).name == STUB and any(word.startswith(prefix) for word in words)
        if is_stub and is_own(pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    remove_shared_memory(prefix)


def is_child(pid: int, parent: int) -> bool:
    """Say whether `parent` has a child of that id, dead or alive."""
    return stat_fields(pid)[1:2] == [str(parent)]


def is_zombie(pid: int, parent: int) -> bool:
    """Say whether a child of `parent` has ended and has not been waited for.

    Triton waits for the stubs that it ends itself, so a stub that stays a zombie crashed.
    """
    return stat_fields(pid)[:2] == ["Z", str(parent)]


def _stub(pid: int, repository: Path) -> Stub | None:
    """Read from a stub's command line whose it is: its second word is REPOSITORY/NAME/VERSION/FILE."""
    words = _command_line(pid)
    if len(words) > 1 and (path := Path(words[1])).parent.name.isdigit() and path.parent.parent.parent == repository:
        return Stub(model=path.parent.parent.name, version=int(path.parent.name))
    return None


def _command_line(pid: int) -> list[str]:
    """Return the words of a process's command; none for a zombie, or where there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _reap(group: int) -> None:
    """Wait for stubs that became this process's children: as a container's process 1 it inherits them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def _prepare_child() -> None:
    """Have the kernel send SIGTERM to the child when its parent dies, however it dies (prctl(2)); widen its stacks.

    2.51 keeps a list of a body's pieces on the stack of a thread, 16 bytes for each of 4 KiB: the 2 GB of a deployment
    would overrun the usual 8 MiB. A stack takes memory only as far as it is used.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
    # No core file: it would hold the control key and clients' images.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
