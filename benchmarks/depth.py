"""Time and memory of the line against depth: pre-activation ResNets of 164, 326 and 1001 layers.

    python benchmarks/depth.py [--depths 164 326 1001]

Each depth runs in a process of its own, so that the peak of its resident memory is its own: build, one
training step on 4 images, fold, write ONNX, run the file. Time per layer should not grow with the depth.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = ("build", "train step", "fold", "write ONNX", "run ONNX")


def main() -> int:
    """Measure each depth in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description="Time and memory against depth.")
    parser.add_argument("--depths", type=int, nargs="+", default=[164, 326, 1001])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    print(f"{'layers':>6} " + " ".join(f"{step + ' s':>13}" for step in STEPS) + f" {'ms a layer':>11} {'peak GB':>8}")
    for depth in options.depths:
        command = [sys.executable, __file__, "--one", str(depth)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        times = " ".join(f"{found[step]:>13.2f}" for step in STEPS)
        total = sum(found[step] for step in STEPS)
        print(f"{depth:>6} {times} {total / depth * 1e3:>11.0f} {found['peak_gb']:>8.2f}", flush=True)
    return 0


def measure(depth: int) -> dict[str, float]:
    """Return the seconds of each step and the peak of the resident memory in GB."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    import resx
    from resx.export.graph import onnx_writer
    from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
    from resx.zoo import depths
    from resx.zoo.building import build_from_spec
    from resx.zoo.catalog import variant

    base = variant("preresnet164").spec.with_changes(survival=0.5)
    spec = base.model_copy(
        update={"architecture": depths.preresnet_cifar(depth, block="bottleneck"), "name": f"preresnet{depth}"}
    )
    seconds: dict[str, float] = {}

    def timed(step: str, started: float) -> None:
        seconds[step] = time.perf_counter() - started

    started = time.perf_counter()
    model = build_from_spec(spec, seed=0)
    timed("build", started)
    started = time.perf_counter()
    images = torch.randn(4, 3, 32, 32)
    F.cross_entropy(model(images), torch.tensor([0, 1, 2, 3])).backward()
    timed("train step", started)
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    folded = resx.fold(model)
    timed("fold", started)
    with tempfile.TemporaryDirectory(prefix="resx-depth-") as folder:
        path = Path(folder) / "model.onnx"
        started = time.perf_counter()
        onnx_writer.write_onnx(folded, spec, path, precision="fp32", input_type="uint8")
        timed("write ONNX", started)
        session = OnnxRuntimeModel(path)
        started = time.perf_counter()
        session(np.zeros((1, 3, 32, 32), np.uint8))
        timed("run ONNX", started)
    return seconds | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


if __name__ == "__main__":
    sys.exit(main())
