"""One command in a process of its own, watched: what it printed, where it wrote, what it ran, what it took.

The process is forked from one that has imported everything, so a case costs tenths of a second rather than seconds.
Python's audit events (PEP 578) tell what the command opens, removes and starts; what native libraries do is seen by
what lies around the working folder afterwards.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "c0ffee-of-another-user"  # noqa: S105 - planted to be missed
PEAK_BYTES = 2 * 10**9
WALL_S = 120
"""After which a case counts as hanging; a loaded machine makes every case slow."""
_TRAP = "from pathlib import Path\nPath({ran!r}).touch()\ndef make(): return None\n"
_FOLDERS = {
    "RESX_CACHE": "cache",
    "RESX_STATE": "state",
    "TMPDIR": "tmp",
    "HOME": "home",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
}
_EXIT_CODES = {0, 1, 2, 3, 4, 130}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_STARTS = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork", "os.forkpty", "pty.spawn"}
_CHANGES = {
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.rmtree", "shutil.move", "shutil.unpack_archive",
}  # fmt: skip
# What resx itself asks of the machine, with no foreign word in it.
_OWN_PROGRAMS = {"nvidia-smi", "lscpu", "ldconfig", "uname", "fc-list", "gcc", "cc", "g++", "c++"}
_OWN_MODULE = "resx.serving.clusters.memory"
"""Opens a verified file in a process of its own, to see what it takes."""
_OF_NOBODY = ("/dev/null", "/dev/tty", "/proc/self/", "/dev/shm/")  # noqa: S108 - not ours to write to, but seen
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A command, and the files that it meets."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    """By path below the working folder; they take the place of the sound ones."""
    answers: Mapping[str, bytes] | None = None
    """Whole http answers by the end of the path asked for, of a server whose port takes the place of PORT."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a case."""

    exit_code: int
    text: str
    peak_bytes: int
    faults: tuple[str, ...]
    """What must never happen, each in a few words."""


def run(case: Case, sound: Path, scratch: Path) -> Outcome:
    """Run the case in a copy of the folder `sound`, below `scratch`, and look at what it left."""
    around = Path(tempfile.mkdtemp(dir=scratch))
    try:
        folder = around / "work"
        shutil.copytree(sound, folder, symlinks=True)
        _plant(around, folder)
        for name, content in case.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes(content)
        before = _listing(around, folder)
        printed = around / "printed"
        status, peak_bytes, hung = _in_a_child(lambda: _command(case, folder), folder, printed)
        text = printed.read_bytes()
        faults = [*_ended_badly(status, hung), *_said_badly(status, text), *_left_behind(around, folder, before, text)]
        if peak_bytes > PEAK_BYTES:
            faults.append(f"{peak_bytes / 1e9:.1f} GB of memory")
        reported = around / "faults"
        faults += reported.read_text().splitlines() if reported.exists() else []
        code = os.waitstatus_to_exitcode(status)
        shown = text.decode("utf-8", "backslashreplace")
        return Outcome(exit_code=code, text=shown, peak_bytes=peak_bytes, faults=tuple(dict.fromkeys(faults)))
    finally:
        shutil.rmtree(around, ignore_errors=True)


def _plant(around: Path, folder: Path) -> None:
    """Put code where a foreign file may name it, and a secret beside the working folder."""
    (folder / "trap.py").write_text(_TRAP.format(ran=str(folder / "RAN")))
    (around / "secret.txt").write_text(SECRET)


def _listing(around: Path, folder: Path) -> set[str]:
    return {str(path) for path in around.rglob("*") if folder not in path.parents}


def _in_a_child(action: Callable[[], int], folder: Path, printed: Path) -> tuple[int, int, bool]:
    """Fork, run, and return the wait status, the largest resident size, and whether it had to be ended."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
            os.chdir(folder)
            _watch(folder)
            code = action()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code & 0xFF)
    until = time.monotonic() + WALL_S
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        is_late = time.monotonic() > until
        if is_late or _resident_bytes(child) > 2 * PEAK_BYTES:  # before it takes the machine along
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage.ru_maxrss * 1024, is_late
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it may have left running
    return status, usage.ru_maxrss * 1024, False


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _command(case: Case, folder: Path) -> int:
    """Run resx's own entry, as the shell does."""
    from resx.cli import main

    for variable, name in _FOLDERS.items():
        (folder / name).mkdir(exist_ok=True, mode=0o700)
        os.environ[variable] = str(folder / name)
    tempfile.tempdir = None
    port = str(_serve(case.answers)) if case.answers is not None else ""
    sys.argv = ["resx", *(argument.replace("PORT", port) for argument in case.arguments)]
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
    try:
        main.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    foreign = [
        name for name, module in list(sys.modules.items()) if _lies_in(getattr(module, "__file__", None), folder)
    ]
    if foreign:
        _report(folder, f"imported {', '.join(foreign)}")
    return code


def _lies_in(path: object, folder: Path) -> bool:
    return isinstance(path, str) and path.startswith(f"{folder}/")


def _report(folder: Path, fault: str) -> None:
    descriptor = os.open(folder.parent / "faults", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, (fault.replace("\n", " ")[:300] + "\n").encode("utf-8", "backslashreplace"))
    os.close(descriptor)


def _watch(folder: Path) -> None:
    """Have Python tell of what is written outside of the folder, and of what is run."""
    inside, secret, reported = str(folder), str(folder.parent / "secret.txt"), str(folder.parent / "faults")
    busy = threading.local()

    def outside(path: Any) -> str | None:
        if isinstance(path, int) or path is None:
            return None
        written = Path(os.fsdecode(path)).absolute()
        full = str(written.parent.resolve() / written.name)
        own = full in (inside, reported) or full.startswith((f"{inside}/", *_OF_NOBODY))
        return None if own else full

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if getattr(busy, "now", False) or event not in watched:
            return
        busy.now = True
        try:
            if event == "open":
                path, _, flags = args
                if isinstance(path, str | bytes) and os.path.realpath(os.fsdecode(path)) == secret:
                    _report(folder, "read the secret of another user")
                if (flags or 0) & _WRITES and (where := outside(path)):
                    _report(folder, f"wrote {where}")
            elif event in _CHANGES:
                if where := outside(args[0]):
                    _report(folder, f"{event} {where}")
            elif event in _STARTS:
                program = os.path.basename(os.fsdecode(args[0])) if args and isinstance(args[0], str | bytes) else event  # noqa: PTH119
                if program not in _OWN_PROGRAMS and _OWN_MODULE not in (args[1] or ()):
                    _report(folder, f"started {program} {args[1:2]!r}")
            elif event == "exec" and _lies_in(getattr(args[0], "co_filename", None), folder):
                _report(folder, f"ran {args[0].co_filename}")
            elif event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1"):
                _report(folder, f"connected to {args[1]}")
        except (ValueError, OSError):  # a path with a NUL goes no way
            pass
        finally:
            busy.now = False

    watched = {"open", "exec", "socket.connect", *_CHANGES, *_STARTS}
    sys.addaudithook(hook)


def _ended_badly(status: int, hung: bool) -> list[str]:
    if hung:
        return [f"still running after {WALL_S} s"]
    if os.WIFSIGNALED(status):
        return [f"ended by {signal.Signals(os.WTERMSIG(status)).name}"]
    code = os.WEXITSTATUS(status)
    return [] if code in _EXIT_CODES else [f"exit code {code}"]


def _said_badly(status: int, text: bytes) -> list[str]:
    """Return what is wrong with the words: a traceback, a control character, a failure without its one line."""
    faults = []
    if b"Traceback (most recent call last)" in text:
        faults.append(f"traceback: {text.strip().splitlines()[-1].decode('utf-8', 'backslashreplace')[:200]}")
    elif found := _CONTROL.search(text):
        faults.append(f"printed {found[0]!r}")
    elif os.WIFEXITED(status) and os.WEXITSTATUS(status) in (1, 2, 4):
        if (lines := text.count(b"error: ")) < 1:
            faults.append("failed without a line that says why")
        elif len(text) > 20_000:
            faults.append(f"{lines} lines, {len(text)} bytes of words")
    return faults


def _left_behind(around: Path, folder: Path, before: set[str], text: bytes) -> list[str]:
    faults = [
        f"left {path}" for path in _listing(around, folder) - before if Path(path).name not in ("printed", "faults")
    ]
    if (folder / "RAN").exists():
        faults.append("ran foreign code")
    if SECRET.encode() in text:
        faults.append("printed the secret of another user")
    return faults


def _serve(answers: Mapping[str, bytes]) -> int:
    """Answer every request on a port of loopback by the end of its path, from a thread; return the port."""
    import socket

    listening = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as asked:
            connection.settimeout(30)
            while line := asked.readline():
                path, length = line.split(b" ", 2)[1].decode("latin-1"), 0
                while (header := asked.readline().strip().lower()) != b"":
                    if header.startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                asked.read(length)
                connection.sendall(next((content for end, content in answers.items() if path.endswith(end)), b""))

    def accept() -> None:
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listening.getsockname()[1])
