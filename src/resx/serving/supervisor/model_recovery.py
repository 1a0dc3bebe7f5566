"""Bring one model back, or take it out of service, while the others serve on; `decisions` says which.

Set aside means unloaded, no longer to be brought back, and named with the reason in the server's state until
somebody deploys it again. The server is not restarted for any of this. Only a model that hangs inside of the
server's own process (`--native`) is the server's fault, as nothing else ends it.

A load may take long, or never end, so each runs in a thread of its own while the others are looked after. All that
is decided is decided in the supervisor's thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from resx.errors import ResxError, UsageError
from resx.files.locks import exclusive
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NotLoaded
from resx.serving.embedded.triton_process import TritonProcess
from resx.serving.running import server_state as states
from resx.serving.running import version_records
from resx.serving.supervisor.decisions import (
    History,
    failed_again,
    is_incurable,
    kind_of,
    wait_before_loading_s,
)
from resx.serving.supervisor.health_watch import Fault, StubWatch, fault_of
from resx.serving.supervisor.journal import Journal
from resx.serving.supervisor.model_loading import prove_version, reload
from resx.serving.supervisor.policy import Policy
from resx.text import one_line

_TIMEOUT_S = 60.0
_UNLOAD_S = 5.0
_BUSY_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """The server as it runs now."""

    process: TritonProcess
    stubs: StubWatch


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A model that has a fault."""

    fault: Fault
    """The newest: a try to recover may fail for another reason."""
    reason: str
    """Of the first one."""
    detected_s: float
    due_s: float
    attempt: _Attempt | None = None
    """Under way."""


class _Attempt(threading.Thread):
    """Loads a model again and lets it prove itself, while no command may deploy it."""

    def __init__(self, held: contextlib.ExitStack, load_again: Callable[[_Attempt], Fault | None]) -> None:
        super().__init__(daemon=True, name="load again")
        self.fault: Fault | None = Fault(reason="the recovery failed; see serve.log", kind="wrong")
        """What became of it, once it is over."""
        self.loaded_s: float | None = None
        """When the model was loaded, if it was."""
        self._held, self._load_again = held, load_again

    def run(self) -> None:
        """Do it."""
        with self._held:
            self.fault = self._load_again(self)


class ModelRecovery:
    """The models that have a fault, and what is done about it."""

    def __init__(self, repository: Repository, journal: Journal, policy: Policy) -> None:
        self._repository, self._journal, self._policy = repository, journal, policy
        self._cases: dict[str, _Case] = {}
        self._histories: dict[str, History] = {}

    def _history(self, name: str) -> History:
        return self._histories.get(name, History())

    def healthy(self) -> dict[str, tuple[int, ...]]:
        """Return the versions that are to be served, of the models that have no fault."""
        return {
            name: found
            for name, found in version_records.read_deployed(self._repository).items()
            if name not in self._cases
        }

    @property
    def is_under_way(self) -> bool:
        """Whether a model has a fault that something is being done about."""
        return bool(self._cases)

    def admit(self, fault: Fault) -> None:
        """Note a model's fault for `treat`; one from before the model was last loaded is over."""
        name = fault.model
        assert name is not None
        if name in self._cases or fault.since_s < self._history(name).loaded_s:
            return
        self._histories[name] = failed_again(self._history(name), self._policy, fault.since_s)
        self._cases[name] = _Case(
            fault=fault, reason=fault.reason, detected_s=states.now_s(), due_s=self._due_s(name, fault)
        )
        self._journal.say(f"recover: {fault.reason}")
        self._show_trouble()

    def treat(self, running: Running) -> Fault | None:
        """Take the next step with every model that is due; return a fault if it turns out to be the server's."""
        for name, case in list(self._cases.items()):
            if name not in self._cases or time.monotonic() < case.due_s:
                continue
            if case.attempt is None:
                fault = self._begin(running, name, case)
            elif case.attempt.is_alive():
                continue
            else:
                fault = self._finish(running, name, case, case.attempt)
            if fault is not None:
                return fault
        return None

    def begin_anew(self) -> None:
        """Forget the faults of a server that has ended: each model proves itself on the next one."""
        self._cases.clear()
        self._journal.change(recovering={})

    def prove(self, name: str, versions: Sequence[int]) -> Fault | None:
        """Return the fault of a model that is not loaded, or does not answer as its cards say; overload is none."""
        with self._client(self._policy.canary_timeout_s) as client:
            for version in versions:
                begun = time.monotonic()
                try:
                    prove_version(client, self._repository, name, version, self._journal.state.server_dir)
                except ResxError as error:
                    return fault_of(name, version, kind_of(error), error, since_s=begun)
        return None

    def set_aside(self, name: str, reason: str, *, is_loaded: bool = True) -> None:
        """Take a model out of service and say so; for the arguments see `take_out`."""
        self.take_out(name, reason, is_loaded=is_loaded)
        self._journal.say(f"{name} is set aside, the other models keep serving: {reason}")

    def take_out(self, name: str, reason: str, *, is_loaded: bool = True) -> None:
        """Unload a model and what needs it, not to be brought back until somebody deploys it.

        Args:
            name: the model's.
            reason: that the server's state will show.
            is_loaded: on a server that runs.
        """
        try:
            parts = [*reversed(self._dependents(name)), name]
        except UsageError:  # a folder whose name no model can have: it was never loaded
            self._journal.change(set_aside=self._journal.state.set_aside | {one_line(name): reason})
            return
        for part in parts:
            self._cases.pop(part, None)
            self._histories.pop(part, None)
            with contextlib.suppress(OSError):  # a full disk keeps no model in service
                version_records.record_deployed(self._repository, part, [])
        reasons = {part: reason if part == name else f"it needs {name}" for part in reversed(parts)}
        self._journal.change(set_aside=self._journal.state.set_aside | reasons)
        self._show_trouble()
        for part in parts if is_loaded else []:
            self._unload(part)

    def welcome_back(self) -> None:
        """Forget that models were set aside that somebody has deployed since."""
        if aside := self._journal.state.set_aside:
            served = version_records.read_deployed(self._repository)
            if any(name in served for name in aside):
                self._journal.change(set_aside={name: why for name, why in aside.items() if name not in served})

    def _begin(self, running: Running, name: str, case: _Case) -> Fault | None:
        versions = version_records.read_deployed(self._repository).get(name)
        fault, now_s = case.fault, time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._held(name))
            except BlockingIOError:  # a command is deploying it: what is served of it is for that command to say
                self._cases[name] = replace(case, due_s=time.monotonic() + _BUSY_S)
                return None
            # A stub that died may be of a version that nobody proved, but that answers requests without a version.
            if versions is None or (fault.kind != "died" and fault.version not in {None, *versions}):
                self._dismiss(name, loaded=versions is not None)
                return None
            if fault.kind == "hangs" and not _end_stubs(running, name) and self._journal.state.native:
                return self._blame_server(name, fault)
            if is_incurable(fault.kind, self._history(name), self._policy, now_s):
                self.set_aside(name, fault.reason)
                return None
            if fault.kind == "wrong":
                self._histories[name] = replace(self._history(name), doubted_s=now_s)
            running.process.kill_stubs(name, only_stopped=True)
            attempt = _Attempt(stack.pop_all(), lambda attempt: self._load_again(attempt, name, versions))
        attempt.start()
        self._cases[name] = replace(case, attempt=attempt)
        return None

    def _load_again(self, attempt: _Attempt, name: str, versions: Sequence[int]) -> Fault | None:
        begun = time.monotonic()
        try:
            with self._client(_TIMEOUT_S) as client:
                reload(client, self._repository, name, versions, self._journal.state.server_dir)
        except ResxError as error:
            return fault_of(name, versions[-1], kind_of(error), error, since_s=begun)
        attempt.loaded_s = time.monotonic()
        return self.prove(name, versions)

    def _finish(self, running: Running, name: str, case: _Case, attempt: _Attempt) -> Fault | None:
        running.stubs.scan()
        found, history = attempt.fault, self._history(name)
        if attempt.loaded_s is not None:
            history = self._histories[name] = replace(history, loaded_s=attempt.loaded_s)
        if found is None:
            del self._cases[name]
            self._histories[name] = replace(history, serving_since_s=time.monotonic())
            self._journal.recovered(case.reason, case.detected_s, name)
            self._show_trouble()
            return None
        with self._client(self._policy.canary_timeout_s) as client:
            if running.process.wait(0) or not client.is_live():
                return Fault(reason=f"{case.reason}; then {found.reason}")
        history = replace(history, failed_in_a_row=history.failed_in_a_row + 1)
        self._histories[name] = history
        if case.fault.kind == "wrong" and found.kind == "died":
            found = replace(found, kind="wrong")  # it is not left to answer wrongly for as long as it does not load
        self._journal.say(f"try {history.failed_in_a_row} to recover {name} failed: {found.reason}")
        self._cases[name] = replace(case, fault=found, attempt=None, due_s=self._due_s(name, found))
        return None

    def _dismiss(self, name: str, *, loaded: bool) -> None:
        """Close a case that is over: its model is deployed no more, or another version of it."""
        del self._cases[name]
        self._show_trouble()
        if not loaded:  # nobody has it deployed, so nobody proved it
            self._unload(name)

    def _unload(self, name: str) -> None:
        try:
            with self._client(_UNLOAD_S) as client:
                client.unload(name)
        except NotLoaded:
            return
        except ResxError as error:
            self._journal.note(f"{name}: was not unloaded: {error}")

    def _client(self, timeout_s: float) -> TritonClient:
        return TritonClient(self._journal.state.address("grpc"), timeout_s=timeout_s)

    def _due_s(self, name: str, fault: Fault) -> float:
        now_s = time.monotonic()
        return now_s + wait_before_loading_s(fault.kind, self._history(name), self._policy, now_s)

    def _blame_server(self, name: str, fault: Fault) -> Fault:
        """Return the fault of a model that hangs inside of the server; the second time it does not come back."""
        now_s = time.monotonic()
        if self._history(name).is_doubted(self._policy, now_s):
            self.set_aside(name, fault.reason, is_loaded=False)
        self._histories[name] = replace(self._history(name), doubted_s=now_s)
        return Fault(reason=fault.reason)

    def _dependents(self, name: str) -> list[str]:
        """Return the models that cannot answer without `name`, in the order to load them: its image endpoint."""
        chain = self._repository.endpoints(self._repository.owner(name))
        return chain[chain.index(name) + 1 :] if name in chain else chain

    @contextlib.contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """Keep commands from changing what is served of a model.

        Raises:
            BlockingIOError: one does.
        """
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(exclusive(self._repository.root / self._repository.owner(name), wait=False))
            except BlockingIOError:
                raise
            except OSError:  # somebody deleted the model, or nobody can open its folder
                pass
            yield

    def _show_trouble(self) -> None:
        recovering = {name: case.fault.reason for name, case in self._cases.items()}
        if recovering != self._journal.state.recovering:
            self._journal.change(recovering=recovering, trouble="; ".join(recovering.values()))


def _end_stubs(running: Running, name: str) -> bool:
    """End a model's processes, which would keep it from being unloaded; say whether it had any."""
    had_any = running.process.kill_stubs(name)
    running.stubs.forget(name)
    return had_any
