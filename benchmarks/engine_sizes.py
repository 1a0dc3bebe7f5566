"""Build every family with TensorRT for RTX, without a GPU, and print seconds and sizes.

    python benchmarks/engine_sizes.py [NAME ...]

Weights are random: an engine's size does not depend on them. fp32 and fp16 are exported here; parity is not
measured, `resx export` does that.
"""

import sys
import tempfile
import time
from pathlib import Path

from resx.export.card import Precision
from resx.export.fold import fold_survival
from resx.export.onnx_file import write_onnx
from resx.export.tensorrt_engine import EngineOptions, build_engine, load_package
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant

NAMES = ("resnet18", "plain18", "preresnet18", "resnext50_32x4d", "densenet121", "highway19", "vgg16_bn")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def main(names: list[str]) -> None:
    """Print a row for each name and precision."""
    trt = load_package("tensorrt_rtx")
    options = EngineOptions(compute_capabilities=("8.6",))
    print(f"tensorrt_rtx {trt.__version__}, compute capability 8.6, batches 1 to 8")
    print(f"{'name':18} {'':5} {'build s':>8} {'MB':>8} {'of fp32':>8}  layers")
    for name in names or NAMES:
        spec = variant(name).spec
        network = fold_survival(build_from_spec(spec, seed=0))
        size_of_fp32 = 0
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                write_onnx(network, spec, path, precision=precision, input_type="uint8")
                start = time.monotonic()
                facts = build_engine(trt, path, options, precision=precision).facts
            seconds = time.monotonic() - start
            size_of_fp32 = size_of_fp32 or facts.size_bytes
            layers = ", ".join(f"{number} {kind}" for kind, number in facts.network_precisions.items())
            remark = f", {len(facts.grouped_in_fp32)} grouped in fp32" if facts.grouped_in_fp32 else ""
            share = facts.size_bytes / size_of_fp32
            print(
                f"{name:18} {precision:5} {seconds:8.1f} {facts.size_bytes / 1e6:8.1f} {share:8.2f}  {layers}{remark}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
