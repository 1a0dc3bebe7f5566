"""How long a network's exported graph takes in onnxruntime, and how long each of its blocks.

The graph is the one that `resx export` writes for the CPU. Its median time at batch 1 is taken without profiling;
onnxruntime's profile then says which share of it each node takes. A node belongs to the block whose weights it has,
or else to the block that computes its inputs. onnxruntime names a fused node after the last of its outputs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import ModelProto
from torch import nn

from resx.analysis.shrink.search import BlockLatency
from resx.export.graph.onnx_writer import INPUT, write_onnx
from resx.export.graph.survival_folding import fold_survival
from resx.machine import usable_cores
from resx.runtimes.onnxruntime_model import session_options
from resx.zoo.families.stochastic_depth import StochasticBranch
from resx.zoo.spec import ModelSpec

_WARM_UP = 5
# What a zero-padded shortcut is made of: it stands before the weights of the block that it belongs to.
_BEFORE_A_BLOCK = ("Slice", "Pad")


def measure_blocks(model: nn.Module, spec: ModelSpec, *, runs: int = 50, threads: int | None = None) -> BlockLatency:
    """Export a network to a temporary file and measure it, and its blocks, at batch 1.

    Raises:
        ExportError: it cannot be exported.
    """
    names = {id(module): name for name, module in model.named_modules()}
    branches = [module for module in model.modules() if isinstance(module, StochasticBranch)]
    prefixes = {names[id(branch)]: block for branch, block in zip(branches, spec.kept_blocks, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        folded = fold_survival(model)
        proto = write_onnx(folded, spec, path, precision="fp32", input_type="uint8", target="cpu")
        image = np.random.default_rng(0).integers(0, 256, (1, 3, spec.image_size, spec.image_size), dtype=np.uint8)
        threads = threads or usable_cores()
        total_ms = statistics.median(_run_times_ms(path, image, runs, threads))
        node_us = _profile(path, image, runs, threads)
    blocks = block_of_nodes(proto, prefixes)
    spent: dict[int, float] = dict.fromkeys(prefixes.values(), 0.0)
    for name, duration in node_us.items():
        block = blocks.get(name, 0)
        if block:
            spent[block] += duration
    whole = sum(node_us.values()) or 1.0
    return BlockLatency(
        total_ms=total_ms, blocks_ms={block: total_ms * duration / whole for block, duration in spent.items()}
    )


def block_of_nodes(proto: ModelProto, prefixes: Mapping[str, int]) -> dict[str, int]:
    """Return the block of each node, by the node's own name and by its outputs' names; 0 is none."""
    of_tensor: dict[str, int] = {}
    blocks: dict[str, int] = {}

    def owner(tensor: str) -> int:
        parts = tensor.removeprefix("network.").split(".")
        return next((prefixes[p] for n in range(len(parts), 0, -1) if (p := ".".join(parts[:n])) in prefixes), 0)

    own = {tensor.name: owner(tensor.name) for tensor in proto.graph.initializer}
    users: dict[str, list[int]] = {}
    for node in proto.graph.node:
        with_weights = [own[name] for name in node.input if own.get(name)]
        has_weights = any(name.startswith("network.") and name in own for name in node.input)
        block = with_weights[0] if with_weights else 0
        if not has_weights:
            block = max((of_tensor.get(name, 0) for name in node.input), default=0)
        for name in node.input:
            users.setdefault(name, []).append(block)
        for name in (node.name, *node.output):
            of_tensor[name] = blocks[name] = block
    for node in reversed(proto.graph.node):
        behind = users.get(node.output[0], [])
        if node.op_type in _BEFORE_A_BLOCK and behind:
            for name in (node.name, *node.output):
                blocks[name] = max(behind)
            for name in node.input:
                users.setdefault(name, []).append(max(behind))
    return blocks


def _run_times_ms(path: Path, image: npt.NDArray[np.uint8], runs: int, threads: int) -> list[float]:
    session = onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
    times = []
    for _ in range(_WARM_UP + runs):
        started = time.perf_counter()
        session.run(None, {INPUT: image})
        times.append(1000 * (time.perf_counter() - started))
    return times[_WARM_UP:]


def _profile(path: Path, image: npt.NDArray[np.uint8], runs: int, threads: int) -> dict[str, float]:
    """Return each node's median time in microseconds."""
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_name("profile"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(_WARM_UP + runs):
        session.run(None, {INPUT: image})
    events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time").removesuffix("_nchwc")
            durations.setdefault(name, []).append(event["dur"])
    return {name: statistics.median(values[_WARM_UP:]) for name, values in durations.items() if values[_WARM_UP:]}
