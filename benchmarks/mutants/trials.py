"""One trial: a copy of the tracked files, one fault in it, the tests that have to fail, and what came of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.mutants.fault_table import Fault

from resx.files.own_folders import cache_folder
from resx.files.staging import sha256_of

Verdict = Literal["caught", "not caught", "broken", "too long", "no sound tests"]
SOUND_LIMIT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What tests said of one copy."""

    verdict: Verdict
    """`broken`: they ended in an error of import or of a fixture, which proves nothing about the promise."""

    seconds: float
    said: str = ""
    """The first test that failed and why, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A copy of the repository's files in a folder of its own, with a cache of its own."""

    folder: Path

    @property
    def tree(self) -> Path:
        """The copy."""
        return self.folder / "tree"

    def run(self, tests: tuple[str, ...], limit_s: float) -> Outcome:
        """Run the tests on the copy as it is now."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        begun = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += [f"--basetemp={self.folder / 'tmp'}", *tests]
        code, output = _run_at_most(command, self.tree, self._environment(), limit_s)
        seconds = time.monotonic() - begun
        if code is None:
            return Outcome(verdict="too long", seconds=seconds, said=f"stopped after {limit_s:.0f} s")
        return _judge(code, report, output, seconds)

    @contextlib.contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        """Hold the fault in the copy for as long as this lasts."""
        file = self.tree / fault.file
        sound = file.read_text(encoding="utf-8")
        _write_anew(file, fault.plant(sound))
        try:
            yield
        finally:
            _write_anew(file, sound)

    def fingerprint(self, tests: tuple[str, ...]) -> str:
        """Hash what these tests depend on: the package, what tests share, and their own files."""
        names = {*map(Path, (test.partition("::")[0] for test in tests)), Path("pyproject.toml")}
        names |= {path.relative_to(self.tree) for path in self.tree.glob("tests/**/conftest.py")}
        for folder in ("src", "tests/support"):
            names |= {path.relative_to(self.tree) for path in (self.tree / folder).rglob("*") if path.suffix != ".pyc"}
        digest = hashlib.sha256(repr(tests).encode())
        for name in sorted(names):
            if (self.tree / name).is_file():
                digest.update(f"{name}\0{sha256_of(self.tree / name)}\n".encode())
        return digest.hexdigest()

    def _environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.tree / "src"), "RESX_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        return {name: value for name, value in os.environ.items() if name != "RESX_STATE"} | own


def copy_repository(root: Path, folder: Path) -> Bench:
    """Copy every file that git tracks or would track, as it is in the working tree, and the downloaded server."""
    bench = Bench(folder=folder)
    for name in list_files(root):
        target = bench.tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target, follow_symlinks=False)
    downloads = folder / "cache" / "downloads"
    downloads.mkdir(parents=True, mode=0o700)
    for wheel in (cache_folder() / "downloads").glob("*.whl"):
        shutil.copy2(wheel, downloads)
    return bench


def list_files(root: Path) -> list[str]:
    """List what git tracks or would track, and is there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({name for name in names if name and ((root / name).is_file() or (root / name).is_symlink())})


def _write_anew(file: Path, text: str) -> None:
    """Write so that no bytecode of the other text is taken for this one: it is told by the second and the size."""
    file.write_text(text, encoding="utf-8")
    for stale in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        stale.unlink()


def _run_at_most(
    command: list[str], folder: Path, environment: dict[str, str], limit_s: float
) -> tuple[int | None, str]:
    """Run the command; its exit code and output, or None where it had to be ended with all that it started."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _judge(code: int, report: Path, output: str, seconds: float) -> Outcome:
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
    cases = list(ET.parse(report).iter("testcase")) if report.is_file() else []  # noqa: S314 - pytest wrote it
    for case in cases:
        error, failure = case.find("error"), case.find("failure")
        found = failure if failure is not None else error
        if found is None:
            continue
        why = (found.get("message") or "").partition("\n")[0]
        said = f"{case.get('name')}: {why}"[:200]
        asserted = failure is not None or "assert" in why.lower()
        return Outcome(verdict="caught" if asserted else "broken", seconds=seconds, said=said)
    if code == 0 and any(case.find("skipped") is None for case in cases):
        return Outcome(verdict="not caught", seconds=seconds, said=last)
    return Outcome(verdict="broken", seconds=seconds, said=last)
