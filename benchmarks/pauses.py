"""A run in process after a pause, beside runs without one: does a lone request pay for the time before it?

    python -m benchmarks.pauses --model resnet50 [--export=--bf16] [--export=--runtime=openvino] [--pauses 0.3,0.7,1.5]
                                [--rounds 5] [--seconds 1]

A server gets the next lone request after the client has the answer: meanwhile the runtime's threads fall asleep. The
version is opened as the embedded server opens it and runs one image after the other, with the process asleep for some
milliseconds in between, or not at all; the order rotates, and ratios are round by round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from resx.repository.versions import Repository
from resx.serving.embedded.backend_session import backend_of, open_version, served_config


def main() -> int:
    """Measure all pauses in turn and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--export", action="append", default=[], help="an option of resx export; repeatable")
    parser.add_argument("--pauses", default="0.3,0.7,1.5", help="in milliseconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    asked = parser.parse_args()
    pauses = [0.0, *map(float, asked.pauses.split(","))]
    with tempfile.TemporaryDirectory(prefix="resx-pauses-") as folder:
        command = [sys.executable, "-m", "resx", "export", asked.model, "--no-verify", *asked.export, "-q"]
        subprocess.run([*command, f"--repository={folder}"], check=True, stdout=subprocess.DEVNULL)
        version = Repository(Path(folder)).find(asked.model)
        card = version.repository.card(version.name, version.version)
        config = served_config(version.folder.parent, card)
        opened = open_version(str(version.folder / card.model_file), config, backend_of(config), "cpu")
        rounds = [one_round(opened, pauses, turn, asked.seconds) for turn in range(asked.rounds)]
    print(f"{asked.model} {' '.join(asked.export)}: one image in process, median of a run")
    for pause in pauses:
        runs = [found[pause] for found in rounds]
        ratios = [found[pause] / found[0.0] for found in rounds]
        print(
            f"{f'after a pause of {pause:g} ms' if pause else 'without a pause'}: {statistics.median(runs):.3f} ms, "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    return 0


def one_round(opened: Any, pauses: list[float], turn: int, seconds: float) -> dict[float, float]:
    """Return the median of a run in ms after each pause."""
    first = turn % len(pauses)
    return {pause: median_ms(opened, pause, seconds) for pause in [*pauses[first:], *pauses[:first]]}


def median_ms(opened: Any, pause_ms: float, seconds: float) -> float:
    """Run one image after the other with a pause before each, and return the median of the runs alone."""
    (taken, *_), given = opened.interface
    image = np.random.default_rng(0).integers(0, 256, (1, *taken.shape[1:]), dtype=np.uint8)
    outputs, found = [output.name for output in given], []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if pause_ms:
            time.sleep(pause_ms / 1000)
        begun = time.perf_counter()
        opened.run(outputs, {taken.name: image}, opened.options)
        found.append((time.perf_counter() - begun) * 1000)
    return statistics.median(found)


if __name__ == "__main__":
    sys.exit(main())
