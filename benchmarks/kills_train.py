"""Kill `resx train` at random moments, go on with --resume, and compare each finished run with one that was left alone.

    python -m benchmarks.kills_train [--kills 30] [--seed 0]

A moment is drawn evenly from the time that a whole run takes once it holds its folder. A run that ends before its
moment is compared and another one begins, until so many kills are done. Every file of a finished run must be that of
the run that was left alone, to the bit, times of day aside. Exit code 1 if one is not, or if a run refuses to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from resx.files.locks import lock_holder

NUM_IMAGES, SIZE_PX = 60, 8
EPOCHS = 4
_ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainKills:
    """What came of the kills."""

    kills: int
    runs: int
    """That were finished, each with all its kills."""
    faults: tuple[str, ...]


def train_kills(folder: Path, *, kills: int, seed: int) -> TrainKills:
    """Kill runs inside `folder` until there are `kills`, and compare each with a run that was left alone."""
    data, whole = _write_images(folder / "data"), folder / "whole"
    chance = random.Random(seed)
    process = _start(data, whole)
    held = _until_held(process, whole)
    _require_done(process)
    span_s = time.monotonic() - held
    expected = _contents(whole)
    done = runs = 0
    faults: list[str] = []
    while done < kills:
        run, before = folder / f"run-{runs}", done
        while (took_s := _ended(data, run, chance.uniform(0, span_s), last=done == kills)) is None:
            done += 1
        if done == before:
            span_s = took_s  # a run that was left alone: the machine may be quicker now
        runs += 1
        found = _contents(run)
        faults += [f"{run.name}: {name} differs" for name in expected | found if expected.get(name) != found.get(name)]
    return TrainKills(kills=done, runs=runs, faults=tuple(faults))


def _ended(data: Path, run: Path, after_s: float, *, last: bool) -> float | None:
    """Start or resume a run and kill it at that moment, unless it is the last start.

    Returns:
        How long it held its folder, in seconds; None if it was killed.
    """
    process = _start(data, run)
    held = _until_held(process, run)
    if not last:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return None
    _require_done(process)
    return time.monotonic() - held


def _start(data: Path, run: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "resx", "train", "resnet20", "--data", f"folder:{data}", "--image-size", str(SIZE_PX),
        "--survival", "0.5", "--epochs", str(EPOCHS), "--batch-size", "12", "-q", "-o", str(run),
    ]  # fmt: skip
    resume = ["--resume"] if (run / "spec.json").is_file() else []
    return subprocess.Popen(
        [*command, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=_ENVIRONMENT
    )


def _until_held(process: subprocess.Popen[str], run: Path) -> float:
    """Wait until a process holds the lock of its run's folder, or has ended; return when that was."""
    while process.poll() is None and lock_holder(run) != process.pid:
        time.sleep(0.002)
    return time.monotonic()


def _require_done(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"resx train ended with {process.returncode}: {said}")


def _contents(run: Path) -> dict[str, object]:
    """Return what the files of a run hold, without what is different each time: speed, and the order of a header."""
    from safetensors.numpy import load_file

    found: dict[str, object] = {}
    for path in run.iterdir():
        if path.suffix == ".safetensors":
            found[path.name] = {name: array.tobytes() for name, array in load_file(path).items()}
        elif path.suffix == ".jsonl":
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{key: entry[key] for key in entry if key != "images_per_s"} for entry in entries]
        else:
            found[path.name] = path.read_bytes()
    return found


def _write_images(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        path = folder / ("cat", "dog")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def main() -> int:
    """Kill, compare, print what came of it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-kills-") as folder:
        found = train_kills(Path(folder), kills=asked.kills, seed=asked.seed)
    for fault in found.faults:
        print(fault)
    print(f"{found.kills} kills of {found.runs} runs, {len(found.faults)} files that differ, seed {asked.seed}")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
