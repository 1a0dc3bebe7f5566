"""What the CPU's form and int8 gain: each file's speed against the plainly exported fp32 file.

    python benchmarks/precision_speed.py [--models resnet50 densenet121] [--rounds 30]

For each model three files are written with random weights (speed does not depend on them) and run in one
process in turn, one image each, so that whatever else the machine does slows all of them:

    plain    fp32 as it comes from PyTorch, convolution and batch norm merged, other batch norms left
    form     fp32 in the CPU's form: those batch norms as depthwise convolutions, transitions pooled first
    int8     made of `form`

A ratio is plain's time over the file's, of a round; the median of the rounds is compared with the bar and
printed with the quartiles. A ResNet's `form` is its `plain`: how far its ratio is from 1 is the measurement's
error. int8's speed depends on the processor's instructions (VNNI), which are printed too.
Beside the ratios stands the cosine between each file's logits and plain's, on crops of photographs.

Ends with 1 if a ratio is below its bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from resx.card.signature import signature_of
from resx.data.photographs import photograph_crops
from resx.export.graph import onnx_writer
from resx.export.int8 import quantization
from resx.machine import usable_cores
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant

BARS: Mapping[str, Mapping[str, float]] = {
    "resnet50": {"int8": 1.75},
    "densenet121": {"form": 1.05, "int8": 1.8},
}
_NUM_CALIBRATION_IMAGES = 8


def write_files(name: str, folder: Path) -> dict[str, Path]:
    """Write the model's three files."""
    spec = variant(name).spec
    model = build_from_spec(spec, seed=0).eval()
    files = {kind: folder / f"{name}-{kind}.onnx" for kind in ("plain", "form", "int8")}
    for kind, target in (("plain", "gpu"), ("form", "cpu")):
        onnx_writer.write_onnx(model, spec, files[kind], precision="fp32", input_type="uint8", target=target)  # type: ignore[arg-type]
    prepared = folder / "prepared.onnx"
    quantization.prepare(files["form"], prepared, target="cpu")
    images = photograph_crops(_NUM_CALIBRATION_IMAGES, spec.image_size, seed=1)
    ranges = quantization.find_ranges(prepared, images, "minmax", signature_of(spec, "uint8"))
    onnx.save(quantization.quantise(prepared, ranges, target="cpu", keep_fp32=[]), files["int8"])
    return files


def measure(
    files: Mapping[str, Path], images_NCHW: npt.NDArray[np.uint8], *, rounds: int, threads: int
) -> dict[str, list[float]]:
    """Return each file's seconds for one image, round by round, in turn."""
    sessions = {kind: OnnxRuntimeModel(path, threads=threads) for kind, path in files.items()}
    for session in sessions.values():
        for _ in range(3):
            session(images_NCHW[:1])
    times: dict[str, list[float]] = {kind: [] for kind in files}
    for index in range(rounds):
        image = images_NCHW[index % len(images_NCHW)][None]
        # Each file is the first, the second and the last equally often: what ran before leaves caches behind.
        order = list(sessions)[index % len(sessions) :] + list(sessions)[: index % len(sessions)]
        for kind in order:
            begun = time.perf_counter()
            sessions[kind](image)
            times[kind].append(time.perf_counter() - begun)
    return times


def cosine(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    """Return the cosine between an image's two logits, mean over the images."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    return float(((expected * actual).sum(1) / lengths).mean())


def instructions() -> str:
    """Name those of the processor's instructions that int8 is fast with."""
    flags = Path("/proc/cpuinfo").read_text().split()
    found = [name for name in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if name in flags]
    return ", ".join(found) or "none known"


def main() -> int:
    """Measure, print, and say whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(BARS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()

    met = True
    print(f"{options.threads} thread(s), {options.rounds} rounds, instructions: {instructions()}")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(name, Path(folder))
            images = photograph_crops(8, variant(name).spec.image_size, seed=0)
            times = measure(files, images, rounds=options.rounds, threads=options.threads)
            answers = {kind: OnnxRuntimeModel(path)(images) for kind, path in files.items()}
        for kind in ("form", "int8"):
            ratios = [plain / other for plain, other in zip(times["plain"], times[kind], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            bar = BARS.get(name, {}).get(kind)
            verdict = "" if bar is None else f"  bar {bar:.2f}: {'met' if middle >= bar else 'MISSED'}"
            met = met and (bar is None or middle >= bar)
            time_ms, plain_ms = (1000 * statistics.median(times[which]) for which in (kind, "plain"))
            print(
                f"{name} {kind}: {middle:.2f}x ({low:.2f} to {high:.2f}), "
                f"{time_ms:.1f} ms for {plain_ms:.1f}, cosine "
                f"{cosine(answers['plain'], answers[kind]):.5f}{verdict}"
            )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
