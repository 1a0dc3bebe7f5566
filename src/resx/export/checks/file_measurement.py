"""What files get right and how long they take, in onnxruntime on the CPU of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from resx.card.canary_rows import canary_input
from resx.card.signature import Signature
from resx.data.dataset import Split
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel

_BATCH = 64
_WARM_UP = 5
_ROUNDS = 50
_FEWEST_ROUNDS = 10
_LONGEST_S = 30.0


def accuracy(path: Path, signature: Signature, split: Split) -> float:
    """Return the share of the images whose class the file names."""
    model = OnnxRuntimeModel(path)
    right = 0
    for start in range(0, len(split), _BATCH):
        answer = model(signature.as_input(split.images[start : start + _BATCH]))
        right += int((answer.argmax(1) == split.targets[start : start + _BATCH]).sum())
    return right / len(split)


def latencies_ms(files: Sequence[tuple[Path, Signature]], *, threads: int) -> list[float]:
    """Return each file's median time of a run at batch 1.

    The files take turns, so that a machine that slows down meanwhile slows all of them down. There are 50 rounds,
    or as many as fit into half a minute, but 10.
    """
    models = [(OnnxRuntimeModel(path, threads=threads), canary_input(signature, 1)) for path, signature in files]
    times: list[list[float]] = [[] for _ in models]
    begun = time.perf_counter()
    for round_ in range(_WARM_UP + _ROUNDS):
        for taken, (model, image) in zip(times, models, strict=True):
            started = time.perf_counter()
            model.tensor(image)
            taken.append(1000 * (time.perf_counter() - started))
        if round_ + 1 >= _WARM_UP + _FEWEST_ROUNDS and time.perf_counter() - begun > _LONGEST_S:
            break
    return [statistics.median(taken[_WARM_UP:]) for taken in times]
