"""How long a network takes as it is exported for the CPU, and each of its blocks: what fewer blocks would save."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from torch import nn

from resx.analysis.shrink.search import BlockLatency
from resx.export.graph.onnx_writer import write_onnx
from resx.export.graph.survival_folding import fold_survival
from resx.runtimes.profiling.layer_times import blocks_of, layers_of
from resx.runtimes.profiling.measuring import ProfileOptions, measure
from resx.runtimes.profiling.onnx_source import onnx_subject
from resx.zoo.families.stochastic_depth import StochasticBranch
from resx.zoo.spec import ModelSpec


def measure_blocks(model: nn.Module, spec: ModelSpec, *, runs: int = 50, threads: int = 0) -> BlockLatency:
    """Measure a network's exported graph in onnxruntime, and the blocks in it, at batch 1.

    Raises:
        ExportError: it cannot be exported.
    """
    names = {id(module): name for name, module in model.named_modules()}
    branches = [module for module in model.modules() if isinstance(module, StochasticBranch)]
    numbers = {names[id(branch)]: block for branch, block in zip(branches, spec.kept_blocks, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        proto = write_onnx(fold_survival(model), spec, path, precision="fp32", input_type="uint8", target="cpu")
    options = ProfileOptions(threads=threads, num_runs=runs)
    subject = onnx_subject(proto, options, spec.name, blocks=set(numbers))
    measured = measure(subject, options, peaks=False)
    layers = layers_of(measured.counts, subject.source, {})
    total_ms, counted_us = statistics.median(measured.runs_ms), sum(layer.time_us for layer in layers) or 1.0
    spent = {block.name: block.time_us for block in blocks_of(layers)}
    return BlockLatency(
        total_ms=total_ms,
        blocks_ms={number: total_ms * spent.get(name, 0.0) / counted_us for name, number in numbers.items()},
    )
