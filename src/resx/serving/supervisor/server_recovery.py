"""Bring the whole server back: it ended, or answers nothing any more; `model_recovery.py` treats a single model."""

from __future__ import annotations

import contextlib
import errno
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from resx.errors import ResxError, ServerError
from resx.files.disk_space import OUT_OF_ROOM
from resx.files.staging import write_atomic
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.running import server_state as states
from resx.serving.running import version_records
from resx.serving.running.server_state import Ended
from resx.serving.supervisor.decisions import History, failed_again, next_step
from resx.serving.supervisor.health_watch import Fault
from resx.serving.supervisor.journal import Journal
from resx.serving.supervisor.model_loading import reload
from resx.serving.supervisor.model_recovery import ModelRecovery
from resx.serving.supervisor.policy import Policy
from resx.serving.supervisor.server_process import ServerProcess

_WAIT_S = 0.1
_PASSES = OUT_OF_ROOM | {errno.EROFS}
_ROOM_S = 2.0


class ServerRecovery:
    """Starts the server again, and knows how often that failed."""

    def __init__(
        self,
        repository: Repository,
        folder: Path,
        process: ServerProcess,
        models: ModelRecovery,
        journal: Journal,
        policy: Policy,
    ) -> None:
        self._repository, self._folder, self._process, self._models = repository, folder, process, models
        self._journal, self._policy = journal, policy
        self._history = History()
        self._culprit: str | None = None
        """The model that the server ended with, when it was last started, if it was one."""

    def recover(self, fault: Fault, detected_s: float) -> None:
        """Start a new server with what was deployed, try after try.

        Args:
            fault: of the server that ran.
            detected_s: when it was found, on the clock of `now_s`.

        Raises:
            ServerError: it was given up.
        """
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
        if self._journal.state.trouble != reason:
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
        self._process.end_for_restart()
        self._models.begin_anew()
        self._culprit = None
        versions, one_by_one = version_records.read_deployed(self._repository), self._history.failed_in_a_row > 0
        self._process.start({} if one_by_one else versions)
        with TritonClient(self._journal.state.address("grpc"), timeout_s=60) as client:
            for name in versions:
                if one_by_one:
                    with contextlib.suppress(ResxError):
                        reload(client, self._repository, name, versions[name], self._journal.state.server_dir)
                found = self._models.prove(name, versions[name])
                if found and (self._process.running.wait(_WAIT_S) or not client.is_live()):
                    self._culprit = name
                    raise ServerError(found.reason)
                if found:
                    self._models.admit(found)
        self._process.stubs.scan()

    def _set_culprit_aside(self, error: str) -> None:
        """Go on without the model that the server ends with."""
        assert self._culprit is not None
        self._models.set_aside(self._culprit, error, is_loaded=False)
        self._culprit, self._history = None, replace(self._history, failed_in_a_row=0)

    def _give_up(self, reason: str) -> NoReturn:
        tries, log = self._policy.max_tries, self._journal.state.log
        message = f"gave up after {tries} tries in a row: {reason}"
        self._journal.note(message)
        ended = Ended(reason=message, ended=time.time(), restarts=self._journal.state.restarts, log=log)
        with contextlib.suppress(OSError):
            write_atomic(self._folder / states.ENDED, ended.model_dump_json(indent=2) + "\n", mode=0o600)
        raise ServerError(message if log in message else f"{message}; see {log}")
