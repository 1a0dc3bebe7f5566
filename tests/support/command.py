"""The command `resx` as a test runs it: a process of its own, forked from one that has imported what commands import.

A new interpreter spends half a second to three seconds on imports, which hundreds of usage errors would each pay
for. The fork has its own folder, environment, streams and exit code, and runs `python -m resx` from the first line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LONGEST_S = 800


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Resx = Callable[..., Finished]


def refused(done: Finished, code: int, *words: str) -> None:
    """Hold a command to one line of error with these words, this exit code, no output and no traceback."""
    assert done.code == code, done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    for word in words:
        assert word in errors[0]


def run_resx(*arguments: str | Path, cwd: Path, env: Mapping[str, str]) -> Finished:
    """Run the command in a new interpreter, which alone shows what is read at its start."""
    command = [sys.executable, "-m", "resx", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=dict(env), capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    return Finished(code=done.returncode, out=done.stdout, err=done.stderr)


class WarmResx:
    """The process that is forked for every command; `tests.support.warm_resx` is what runs in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_resx"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str]) -> Finished:
        """Run one command, as `run_resx` does."""
        with self._lock, tempfile.TemporaryDirectory(prefix="resx-said-") as folder:
            request = {"arguments": [*map(str, arguments)], "cwd": str(cwd), "env": dict(env), "said": folder}
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request | {"longest_s": LONGEST_S}) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            out, err = ((Path(folder) / name).read_text("utf-8") for name in ("out", "err"))
            return Finished(code=code, out=out, err=err)

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()
