"""Runs the steps of `benchmarks.gpu`, each in a process of its own and bounded by what is left of the budget."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.gpu_report import Figures, Outcome, Step, write_report

from resx.machine import usable_cores

Reader: TypeAlias = Callable[[Any], Figures]
_LEAST_S = 5.0
"""With less time than that no step begins."""
_PACKAGES = ("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu12", "nvidia-ml-py", "numpy",
             "tritonclient")  # fmt: skip


class Line:
    """Runs the steps, one after the other, within the budget, and writes the report after each."""

    def __init__(self, folder: Path, budget_s: float, site: Sequence[Path], missing: str) -> None:
        """Prepare; `missing` says why no GPU can be used, or nothing."""
        self.steps: list[Step] = []
        self.missing = missing
        self.machine = describe_machine(missing)
        self._lock = threading.Lock()
        paths = [*map(str, site), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = os.environ | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
        self._folder, self._deadline = folder, time.monotonic() + budget_s

    def resx(self, name: str, *arguments: object, gpu: bool = False, read: Reader = lambda _found: {}) -> Step:
        """Run a command of resx with --json; `read` takes its figures out of what it printed."""
        command = [sys.executable, "-P", "-m", "resx", *map(str, arguments), "--json", "-q"]

        def keep_and_read(text: str) -> Figures:
            found = json.loads(text)
            with self._lock, (self._folder / "printed.jsonl").open("a") as kept:
                kept.write(json.dumps({"step": name, "printed": found}) + "\n")
            return read(found)

        return self.run(name, command, gpu=gpu, read=keep_and_read)

    def run(self, name: str, command: Sequence[str], *, gpu: bool, read: Reader) -> Step:
        """Run any command."""
        shown = " ".join(["resx", *command[4:]] if command[1:4] == ["-P", "-m", "resx"] else command)
        begun = time.monotonic()
        left_s = self._deadline - begun
        if gpu and self.missing:
            return self.note(name, "not run", f"no GPU: {self.missing}", command=shown)
        if left_s < _LEAST_S:
            return self.note(name, "not run", "no time was left of the budget", command=shown)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=left_s, check=False, env=self._environment
            )
        except subprocess.TimeoutExpired:
            return self.note(name, "failed", f"not over when the budget was, after {left_s:.0f} s", left_s, shown)
        took_s = time.monotonic() - begun
        if done.returncode == 1 and "bench" in command and done.stdout.startswith("{"):
            why = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
            return self.note(name, "invalid", why, took_s, shown, read(done.stdout))
        if done.returncode:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            why = f"exit code {done.returncode}: {(said or ['it said nothing'])[-1]}"
            figures = {"said": said[-8:]} if len(said) > 1 else {}
            return self.note(name, "not run" if done.returncode == 4 else "failed", why, took_s, shown, figures)
        try:
            return self.note(name, "passed", "", took_s, shown, read(done.stdout))
        except (KeyError, ValueError, IndexError, TypeError, OSError) as error:
            return self.note(name, "failed", f"its output has no {error}", took_s, shown)

    def note(
        self,
        name: str,
        outcome: Outcome,
        why: str = "",
        took_s: float = 0.0,
        command: str = "",
        figures: Mapping[str, Any] | None = None,
    ) -> Step:
        """Add a step to the report, and say it."""
        step = Step(
            name=name, outcome=outcome, why=why, took_s=round(took_s, 1), command=command, figures=dict(figures or {})
        )
        shown = ", ".join(f"{key} {value}" for key, value in step.figures.items() if not isinstance(value, list))
        with self._lock:
            self.steps.append(step)
            print(f"{outcome:<8} {step.took_s:>6.1f} s  {name}  {why or shown}", flush=True)
            write_report(self._folder, self.machine, self.steps)
        return step

    def together(self, steps: Iterable[Callable[[], Step]]) -> list[Step]:
        """Run steps side by side, one for each eight cores; none of them may be timed."""
        with ThreadPoolExecutor(max(1, usable_cores() // 8)) as workers:
            return [future.result() for future in [workers.submit(step) for step in steps]]


def describe_machine(missing: str) -> Figures:
    """Return the GPU, its driver and the versions that went together."""
    found = {"python": platform.python_version(), "gpu": missing and f"none that can be used: {missing}"}
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        found["gpu"] = found["gpu"] or subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["gpu"] = found["gpu"] or "nvidia-smi does not answer"
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if importlib.util.find_spec("torch") is not None:
        import torch

        found["CUDA of torch"] = torch.version.cuda or "none"
    return found
