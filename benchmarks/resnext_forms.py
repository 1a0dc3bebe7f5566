"""Which of ResNeXt's three equivalent forms is fastest here: aggregated paths, concatenated, grouped.

    python benchmarks/resnext_forms.py [--model resnext50_32x4d] [--rounds 5]

The same weights in the three forms (figure 3 of Xie et al. 2016), each exported to ONNX and run in process,
in turns; ratios are taken round by round against the grouped form. A form's operators are counted beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from resx.export.graph import onnx_writer
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from resx.zoo.families.resnext import convert_form

FORMS = ("grouped", "concatenated", "aggregated")


def main() -> int:
    """Export, run in turns, print the ratios."""
    parser = argparse.ArgumentParser(description="Which form of ResNeXt is fastest.")
    parser.add_argument("--model", default="resnext50_32x4d")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    spec = variant(options.model).spec
    grouped = build_from_spec(spec, seed=0).eval()
    shape = (options.batch, 3, spec.image_size, spec.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory(prefix="resx-forms-") as folder:
        sessions, num_nodes = {}, {}
        for form in FORMS:
            path = Path(folder) / f"{form}.onnx"
            proto = onnx_writer.write_onnx(
                convert_form(grouped, form), spec, path, precision="fp32", input_type="uint8"
            )
            sessions[form], num_nodes[form] = OnnxRuntimeModel(path), len(proto.graph.node)
            sessions[form](images)
        for number in range(options.rounds):
            for form in FORMS if number % 2 else FORMS[::-1]:
                started = time.perf_counter()
                sessions[form](images)
                seconds[form].append(time.perf_counter() - started)
    print(f"{options.model}, batch {options.batch}, {options.rounds} rounds")
    print(f"{'form':<14} {'operators':>9} {'median ms':>10} {'time / grouped (median, lowest to highest)':>44}")
    for form in FORMS:
        ratios = [own / other for own, other in zip(seconds[form], seconds["grouped"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{form:<14} {num_nodes[form]:>9} {statistics.median(seconds[form]) * 1e3:>10.1f} {spread:>44}")
    fastest = min(FORMS, key=lambda form: statistics.median(seconds[form]))
    print(f"fastest here: {fastest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
