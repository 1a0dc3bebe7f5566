"""What one instance of a model takes: its file is opened in a process of its own and runs its largest batch.

    python -m resx.serving.clusters.memory FILE RUNTIME HINT THREADS TYPE N,C,H,W      prints the bytes at its peak

It is opened in the card's own runtime and precision, which differ in what they take. What is counted is the
process's peak (VmHWM), less what Python and the runtime take by themselves.
"""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from resx.card.card import Card
from resx.text import one_line

SERVER_MIB = 1024
"""Triton with its front ends and backends."""
GPU_MIB = 2048
"""In the host's memory, for CUDA, cuDNN and TensorRT."""
_TIMEOUT_S = 300
_MIB = 2**20


def memory_of(card: Card, file: Path, *, batch: int, threads: int) -> tuple[int, str]:
    """Return the MiB that an instance takes, and how they were found: a remark that is empty where they were measured.

    A batch larger than the version was exported for is not tried; its memory is scaled.

    Args:
        card: the version's.
        file: the version's model file.
        batch: the largest that the server sends.
        threads: of the instance; 0: the runtime's own number.
    """
    if card.engine is not None:
        return _estimate(file, f"{card.name}: memory is an estimate: a TensorRT plan can be measured on its GPU only")
    package = card.runtime_name
    if find_spec(package) is None:
        extra = "cpu" if package == "onnxruntime" else package
        reason = f"{package} is not installed here; install the extra {extra} and render again"
        return _estimate(file, f"{card.name}: memory is an estimate: {reason}")
    tried = min(batch, card.max_batch_size)
    hint = (card.runtime and card.runtime.precision_hint) or "f32"
    dims = ",".join(str(dim) for dim in (card.signature.batch or tried, *card.signature.input_dims))
    words = (str(file.absolute()), package, hint, str(threads), card.signature.input_type, dims)
    command = [sys.executable, "-P", "-m", "resx.serving.clusters.memory", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _estimate(file, f"{card.name}: memory is an estimate: {one_line(str(error))}")
    if done.returncode or not done.stdout.strip().isdigit():
        reason = one_line((done.stderr.strip().splitlines() or ["no reason given"])[-1])[:200]
        return _estimate(file, f"{card.name}: memory is an estimate: its file did not run here ({reason})")
    return math.ceil(int(done.stdout) / _MIB * batch / tried), ""


def _estimate(file: Path, remark: str) -> tuple[int, str]:
    return 256 + math.ceil(3 * file.stat().st_size / _MIB), remark


def _measure(file: str, runtime: str, hint: str, threads: str, input_type: str, shape: str) -> int:
    """Return the bytes that opening a file and running rows of zeros adds to this process's peak."""
    import numpy as np

    from resx.runtimes.model_file import open_file

    importlib.import_module(runtime)
    before = _peak_bytes()
    model = open_file(Path(file), runtime, hint, threads=int(threads) or None)  # type: ignore[arg-type]
    rows = np.zeros([int(dim) for dim in shape.split(",")], input_type)
    for _ in range(2):
        model.tensor(rows)
    return _peak_bytes() - before


def _peak_bytes() -> int:
    """Return this process's own peak; getrusage's begins with that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.stdout.write(str(_measure(*sys.argv[1:])))
