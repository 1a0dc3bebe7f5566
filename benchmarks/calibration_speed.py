"""How long int8's activation ranges take: onnxruntime's own entropy calibration against `resx export --int8`'s.

    python benchmarks/calibration_speed.py [--models resnet50] [--images 96] [--rounds 3]

Both are given the same prepared file and crops of photographs, in turn, the one that begins changing with the round:

    onnxruntime   lowest and highest values, then its EntropyCalibrater, histograms beginning on the whole range
    resx          `quantization.find_ranges` with the method entropy

Printed are the seconds of each round, the median of the rounds' ratios, and the largest difference between two ranges
as a part of their width: the same values, but for the rounding of another graph optimization.

Ends with 1 if the ratio is below 3 or a range differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, calibrate

from resx.card.signature import Signature, signature_of
from resx.data.photographs import photograph_crops
from resx.export.graph import onnx_writer
from resx.export.int8 import quantization
from resx.export.int8.calibration import Ranges
from resx.machine import processor, usable_cores
from resx.streams import silence_library
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant

_BAR = 3.0
_LARGEST_DIFFERENCE = 1e-4


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Batches, one after the other."""

    def __init__(self, name: str, batches: list[npt.NDArray[np.uint8]]) -> None:
        self._feeds = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """Return the next batch, then None."""
        return next(self._feeds, None)


def onnxruntime_ranges(prepared: Path, images_NCHW: npt.NDArray[np.uint8], signature: Signature) -> Ranges:
    """Return the ranges of onnxruntime's own entropy calibration, its histograms beginning on the whole range."""
    bounds = _run(calibrate.CalibrationMethod.MinMax, prepared, images_NCHW, signature, {})
    return _run(calibrate.CalibrationMethod.Entropy, prepared, images_NCHW, signature, bounds)


def _run(
    method: calibrate.CalibrationMethod,
    prepared: Path,
    images_NCHW: npt.NDArray[np.uint8],
    signature: Signature,
    bounds: Ranges,
) -> Ranges:
    with tempfile.TemporaryDirectory() as folder, silence_library():
        calibrator = calibrate.create_calibrator(
            prepared,
            sorted({*quantization.QLinearOpsRegistry, *quantization.QDQRegistry}),
            str(Path(folder) / "augmented.onnx"),
            method,
            extra_options={"symmetric": False},
        )
        if bounds:
            bins = calibrator.num_bins
            calibrator.collector = calibrate.HistogramCollector("entropy", False, bins, bins, 99.999, "same")
            for name, (low, high) in bounds.items():
                limit = np.float32(max(abs(low), abs(high)))
                counts, edges = np.histogram(np.zeros(0, np.float32), bins, range=(-float(limit), float(limit)))
                calibrator.collector.histogram_dict[name] = (counts, edges, np.float32(low), np.float32(high), limit)
        for batch in quantization.batches(images_NCHW, signature):
            calibrator.collect_data(Feeds(signature.input_name, [batch]))
        found = calibrator.compute_data()
    return {
        name: (float(np.asarray(data.range_value[0]).item()), float(np.asarray(data.range_value[1]).item()))
        for name, data in found.items()
    }


def difference(ours: Ranges, theirs: Ranges) -> float:
    """Return the largest difference of two ends as a part of the range's width."""
    return max(
        max(abs(ours[name][0] - low), abs(ours[name][1] - high)) / max(high - low, 1e-30)
        for name, (low, high) in theirs.items()
    )


def measure(name: str, *, num_images: int, rounds: int, folder: Path) -> bool:
    """Print a model's times and ratio; return whether it holds."""
    spec = variant(name).spec
    model = build_from_spec(spec, seed=0).eval()
    onnx_writer.write_onnx(model, spec, folder / "fp32.onnx", precision="fp32", input_type="uint8", target="cpu")
    prepared = folder / "prepared.onnx"
    quantization.prepare(folder / "fp32.onnx", prepared, target="cpu")
    images, signature = photograph_crops(num_images, spec.image_size, seed=1), signature_of(spec, "uint8")
    ways: dict[str, Callable[[], Ranges]] = {
        "onnxruntime": lambda: onnxruntime_ranges(prepared, images, signature),
        "resx": lambda: quantization.find_ranges(prepared, images, "entropy", signature),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Ranges] = {}
    for index in range(rounds):
        for way in list(ways)[:: 1 if index % 2 == 0 else -1]:
            begun = time.perf_counter()
            found[way] = ways[way]()
            seconds[way].append(time.perf_counter() - begun)
        print(f"{name}  round {index + 1}  " + "  ".join(f"{way} {times[-1]:.1f} s" for way, times in seconds.items()))
    ratios = [theirs / ours for theirs, ours in zip(seconds["onnxruntime"], seconds["resx"], strict=True)]
    ratio, apart = statistics.median(ratios), difference(found["resx"], found["onnxruntime"])
    same = found["resx"].keys() == found["onnxruntime"].keys() and apart <= _LARGEST_DIFFERENCE
    verdict = "ok" if same and ratio >= _BAR else "MISSED"
    print(
        f"{name}  {num_images} images, {len(found['resx'])} tensors: {ratio:.1f}x ({min(ratios):.1f} to "
        f"{max(ratios):.1f}; bar {_BAR:g}), largest difference {apart:.1e} of a range  {verdict}"
    )
    return verdict == "ok"


def main() -> int:
    """Measure each model and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{processor()}, {usable_cores()} threads")
    with tempfile.TemporaryDirectory() as folder:
        held = [
            measure(name, num_images=arguments.images, rounds=arguments.rounds, folder=Path(folder))
            for name in arguments.models
        ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
