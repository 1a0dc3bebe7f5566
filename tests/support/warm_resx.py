"""Forks itself for every line that it reads, and runs `resx` there: see tests/support/command.py."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from resx import machine

IMPORTED = ("resx.cli.main", "resx.export.pipeline", "resx.serving.client.client", "resx.training.loop", "torch.onnx")


def become(request: dict[str, Any]) -> None:
    """Make of this process what a shell would start: streams, folder, environment, arguments."""
    signal.alarm(request["longest_s"])
    said = Path(request["said"])
    for stream, path, flags in (
        (0, Path(os.devnull), os.O_RDONLY),
        (1, said / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, said / "err", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = ["resx", *request["arguments"]]
    # No context would be left before the process ends.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115


def run() -> int:
    """Run `python -m resx` and return its exit code."""
    try:
        runpy.run_module("resx", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Answer every request with the exit code of its fork."""
    machine.limit_libraries()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported is shared by all forks
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            code = run()
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)  # taking all that is imported apart, piece by piece, takes a second
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
