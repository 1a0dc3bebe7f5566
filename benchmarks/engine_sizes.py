"""Build every family with TensorRT for RTX, without a GPU, in fp32, fp16 and int8; print seconds and sizes.

    python benchmarks/engine_sizes.py [NAME ...]

Weights are random: an engine's size does not depend on them. Parity is not measured, `resx export` does that.
int8 is the GPU's recipe, its ranges from a few photographs: ranges change no size either.

What the sizes show is that the weights are stored in what was asked for: an fp16 engine of fp32 convolutions
would be as large as fp32's. Ends with 1 if fp16 is more than 0.55 of fp32 or int8 more than 0.40.

An engine holds kernels too, and more of them for int8. What is not weights is printed per layer: 1.7.1 gives 95 to
180 kB for each int8 layer whatever the network. So a network of many small layers, DenseNet or Highway, shrinks less;
it is listed without a bar.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import onnx

from resx.card.kinds import Precision
from resx.card.signature import signature_of
from resx.data.photographs import photograph_crops
from resx.export.graph.onnx_writer import write_onnx
from resx.export.graph.survival_folding import fold_survival
from resx.export.int8 import quantization
from resx.export.tensorrt.builder import EngineOptions, build_engine
from resx.runtimes.onnx_reader import weight_counts
from resx.runtimes.tensorrt_package import load_package
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant

NAMES = ("resnet18", "resnet50", "plain18", "preresnet18", "resnext50_32x4d", "densenet121", "highway19", "vgg16_bn")
BARS: Mapping[Precision, float] = {"fp16": 0.55, "int8": 0.40}
_LEAST_BYTES_PER_LAYER = 1e6
"""Of fp32 weights: with less, kernels weigh as much as they do."""
_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
_NUM_CALIBRATION_IMAGES = 4


def write_files(name: str, folder: Path) -> tuple[dict[Precision, Path], int]:
    """Write the variant's three files for the GPU; return them and the number of weight values."""
    spec = variant(name).spec
    network = fold_survival(build_from_spec(spec, seed=0))
    fp32, fp16, prepared, int8 = (folder / f"{kind}.onnx" for kind in ("fp32", "fp16", "prepared", "int8"))
    num_weights, _ = weight_counts(write_onnx(network, spec, fp32, precision="fp32", input_type="uint8"))
    write_onnx(network, spec, fp16, precision="fp16", input_type="uint8")
    quantization.prepare(fp32, prepared, target="gpu")
    images = photograph_crops(_NUM_CALIBRATION_IMAGES, spec.image_size, seed=0)
    ranges = quantization.find_ranges(prepared, images, "minmax", signature_of(spec, "uint8"))
    onnx.save(quantization.quantise(prepared, ranges, target="gpu", keep_fp32=[]), int8)
    return {"fp32": fp32, "fp16": fp16, "int8": int8}, num_weights


def main(names: list[str]) -> int:
    """Print a row for each name and precision, and say whether the bars are met."""
    trt = load_package("tensorrt_rtx")
    options = EngineOptions(compute_capabilities=("8.6",))
    print(f"tensorrt_rtx {trt.__version__}, compute capability 8.6, batches 1 to 8")
    print(f"{'name':18} {'':5} {'build s':>8} {'MB':>8} {'of fp32':>8} {'kB besides':>11}  layers")
    met = True
    for name in names or NAMES:
        size_of_fp32 = 0
        with tempfile.TemporaryDirectory() as folder:
            files, num_weights = write_files(name, Path(folder))
            for precision, path in files.items():
                start = time.monotonic()
                facts = build_engine(trt, path, options, precision=precision).facts
                seconds = time.monotonic() - start
                size_of_fp32 = size_of_fp32 or facts.size_bytes
                layers = ", ".join(f"{number} {kind}" for kind, number in facts.network_precisions.items())
                remark = f", {len(facts.grouped_in_fp32)} grouped in fp32" if facts.grouped_in_fp32 else ""
                share = facts.size_bytes / size_of_fp32
                num_layers = sum(facts.network_precisions.values())
                besides = (facts.size_bytes - num_weights * _BYTES[precision]) / num_layers
                has_bar = 4 * num_weights >= _LEAST_BYTES_PER_LAYER * num_layers
                bar = BARS.get(precision) if has_bar else None
                verdict = "" if bar is None else f"  bar {bar:.2f}: {'met' if share <= bar else 'MISSED'}"
                met = met and (bar is None or share <= bar)
                print(
                    f"{name:18} {precision:5} {seconds:8.1f} {facts.size_bytes / 1e6:8.1f} {share:8.2f} "
                    f"{besides / 1e3:11.0f}  {layers}{remark}{verdict}",
                    flush=True,
                )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
