"""What the dynamic loader says of a program: which shared libraries it finds, and which it does not. See ld.so(8)."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from resx.errors import MissingCapability

_TRACE = "LD_TRACE_LOADED_OBJECTS"
_TRACE_S = 60.0
_NOT_FOUND = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)
_NAMED = re.compile(r"^\s*(\S+\.so\S*) =>", re.MULTILINE)
_VERSION = re.compile(r"version `([A-Z]+_[0-9.]+)' not found")


@dataclass(frozen=True, kw_only=True, slots=True)
class Linked:
    """The shared libraries that a program names, itself or through others."""

    names: tuple[str, ...]
    missing: tuple[str, ...]
    """Those that are not found."""
    too_new: tuple[str, ...]
    """Versions of symbols that the C or C++ library here lacks, such as GLIBC_2.39."""

    @property
    def reason(self) -> str:
        """Why the program cannot start, or nothing."""
        if self.too_new:
            return f"was built for a newer system: it needs {', '.join(self.too_new)}, and this one has {_c_library()}"
        return f"needs {', '.join(self.missing)}, not found on this machine" if self.missing else ""


def linked(program: Path, environment: Mapping[str, str]) -> Linked:
    """Return what a program would load, by the loader alone: nothing of the program runs. A script loads nothing.

    Raises:
        MissingCapability: this machine cannot start it at all.
    """
    with program.open("rb") as file:
        is_program = file.read(4) == b"\x7fELF"
    # A program that is linked statically has no loader, and runs: --help does no harm.
    text = run([str(program), "--help"], {**environment, _TRACE: "1"}, _TRACE_S)[1] if is_program else ""
    return Linked(
        names=tuple(dict.fromkeys(_NAMED.findall(text))),
        missing=tuple(dict.fromkeys(_NOT_FOUND.findall(text))),
        too_new=tuple(dict.fromkeys(_VERSION.findall(text))),
    )


def run(command: list[str], environment: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    """Return a short command's code and what it printed, on either stream; all its processes end with it.

    Raises:
        MissingCapability: this machine cannot start it.
        TimeoutError: it does not end.
    """
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise MissingCapability(f"{command[0]}: {_why_not_started(error)}") from error
    with process:
        try:
            output = process.communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"did not finish within {timeout_s:g} s") from error
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output.decode(errors="replace")


def _why_not_started(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return f"is not a program for this machine ({platform.machine()}); use the files of an image for it"
    if error.errno == errno.ENOENT:
        return "its program interpreter is missing on this system; use the files of an image for this kind of system"
    return f"cannot be run: {error.strerror}"


def _c_library() -> str:
    name, version = platform.libc_ver()
    return f"{name or 'another C library'} {version}".strip()
