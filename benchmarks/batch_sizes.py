"""OpenVINO with a compiled model for a batch size, beside one compiled model for all sizes: speed and memory.

    python -m benchmarks.batch_sizes --model resnet20 [--export=--bf16] [--rounds 5] [--seconds 1]

Both open the same version as the embedded server opens it, in one process, and run in turn: one image at a time, and
batches whose sizes alternate, as they do in a server with eight requests in flight. Ratios are round by round, those
with `resx.fixed_batches` over those without it. The memory is what a process of its own grows by.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from resx.repository.versions import Published, Repository
from resx.serving.embedded.backend_session import open_version, served_config

WAYS = ("NO", "YES")
MIXES = ((1,), (8,), (1, 7), (3, 5))
"""Sizes of batches that follow each other."""


def main() -> int:
    """Measure both ways in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--export", action="append", default=[], help="an option of resx export; repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-batches-") as folder:
        options = ["--runtime=openvino", "--no-verify", *asked.export, "--max-batch=8", f"--repository={folder}", "-q"]
        command = [sys.executable, "-m", "resx", "export", asked.model, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        version = Repository(Path(folder)).find(asked.model)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
            mebibytes = [processes.submit(memory_of, version, way).result() / 2**20 for way in WAYS]
        opened = {way: open_with(version, way) for way in WAYS}
        print(f"{asked.model} {' '.join(asked.export)}: memory {mebibytes[0]:.0f} to {mebibytes[1]:.0f} MiB")
        for mix in MIXES:
            print(line(mix, [measure(opened, mix, asked.seconds, turn) for turn in range(asked.rounds)]), flush=True)
    return 0


def open_with(version: Published, way: str) -> Any:
    """Open a version with or without a model for each size."""
    card = version.repository.card(version.name, version.version)
    config = served_config(version.folder.parent, card)
    config.setdefault("parameters", {})["resx.fixed_batches"] = {"string_value": way}
    return open_version(str(version.folder / card.model_file), config, "openvino", "cpu")


def memory_of(version: Published, way: str) -> int:
    """Return by how many bytes this process grows when it opens a version and runs a batch of each size, twice."""
    before = psutil.Process().memory_info().rss
    opened = open_with(version, way)
    for size in (*range(1, 9), *range(1, 9)):
        compute(opened, images(opened, size))
    return int(psutil.Process().memory_info().rss) - before


def images(opened: Any, size: int) -> np.ndarray[Any, Any]:
    """Return a batch [size, ...] of random bytes."""
    (taken, *_), _ = opened.interface
    return np.random.default_rng(size).integers(0, 256, (size, *taken.shape[1:]), dtype=np.uint8)


def compute(opened: Any, batch: np.ndarray[Any, Any]) -> None:
    """Run a batch."""
    (taken, *_), given = opened.interface
    opened.run([output.name for output in given], {taken.name: batch}, opened.options)


def measure(opened: dict[str, Any], mix: tuple[int, ...], seconds: float, turn: int) -> dict[str, float]:
    """Return the images per second of both ways, in an order that changes from round to round."""
    found = {}
    for way in sorted(opened, reverse=bool(turn % 2)):
        batches = itertools.cycle([images(opened[way], size) for size in mix])
        for _ in range(2 * len(mix)):
            compute(opened[way], next(batches))
        done, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            for batch in itertools.islice(batches, len(mix)):
                compute(opened[way], batch)
                done += len(batch)
        found[way] = done / elapsed
    return found


def line(mix: tuple[int, ...], rounds: list[dict[str, float]]) -> str:
    """Return the medians and the ratio, with its range over the rounds."""
    one, each = ([found[way] for found in rounds] for way in WAYS)
    ratios = [after / before for before, after in zip(one, each, strict=True)]
    sizes = ", ".join(map(str, mix))
    return (
        f"batches of {sizes}: {statistics.median(one):.1f} to {statistics.median(each):.1f} images/s, ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    sys.exit(main())
