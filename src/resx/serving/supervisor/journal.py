"""What a supervisor lets others know: server.json for commands, its log, systemd, and whoever started it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from resx.serving.running import logs
from resx.serving.running import server_state as states
from resx.serving.running.server_state import Recovery, ServerState
from resx.serving.supervisor import systemd

_TRY_AGAIN_S = 1.0


class Journal:
    """The state of one server, kept as it changes."""

    def __init__(self, folder: Path, state: ServerState, on_step: Callable[[str], None]) -> None:
        """Begin with `state`, which is written from `publish` on: nobody is to find a server that is not ready."""
        self.state, self._folder, self._on_step, self._is_public = state, folder, on_step, False
        self._log = Path(state.log)
        self._unwritten_since_s: float | None = None
        self._next_try_s = 0.0

    def note(self, text: str) -> None:
        """Write a line into the log."""
        logs.append(self._log, text)

    def say(self, text: str) -> None:
        """Tell it everywhere."""
        self.note(text)
        self._on_step(text)
        systemd.notify(f"STATUS={text}")

    def change(self, **changes: object) -> None:
        """Replace fields of the state."""
        self.state = self.state.model_copy(update=changes)
        if self._is_public:
            self._write()

    def catch_up(self) -> None:
        """Write what could not be written when it changed, as on a full disk, once it can be."""
        if self._unwritten_since_s is not None and time.monotonic() >= self._next_try_s:
            self._write()

    def _write(self) -> None:
        now = time.monotonic()
        try:
            states.write_state(self._folder, self.state)
        except OSError as error:
            self._next_try_s = now + _TRY_AGAIN_S
            if self._unwritten_since_s is None:
                self._unwritten_since_s = now
                self._on_step(
                    f"{self._folder}: {error.strerror}; the server keeps running, its status and log are not updated"
                )
            return
        if self._unwritten_since_s is not None:
            since_s, self._unwritten_since_s = self._unwritten_since_s, None
            self.say(f"{self._folder}: writable again after {now - since_s:.0f} s")

    def publish(self) -> None:
        """Let others find the server, now and whenever its state changes."""
        self._is_public = True
        self.change(phase="serving")

    def recovered(self, reason: str, detected_s: float, model: str | None) -> None:
        """Say that the server, or one of its models, serves again."""
        recovery = Recovery(reason=reason, model=model, detected_s=detected_s, serving_s=states.now_s())
        self.change(
            phase="serving",
            trouble="; ".join(self.state.recovering.values()),
            restarts=self.state.restarts + 1,
            last_recovery=recovery,
        )
        whose = f"{model} is serving" if model else "serving"
        self.say(f"{whose} again after {recovery.serving_s - recovery.detected_s:.1f} s")
