"""onnxruntime's own profile of a model, read back as counters.

The profile and the graph that the optimizer made go into a temporary folder. A node of that graph is named after the
file's node, or after the last tensor that it replaces, with an addition of the optimizer's: `relu_3_nchwc`,
`conv1_token_1`. What it inserted has new names, and belongs to the nodes around it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from resx.errors import ExportError, first_line
from resx.runtimes.onnxruntime_model import session_options
from resx.runtimes.profiling.counters import ComputedIn, Counts, Feed, RuntimeNode

_ADDED = re.compile(r"(_nchwc|_token_\d+)+$")
_COMPUTES = re.compile(r"Conv|Gemm|MatMul")
_OPTIMIZED = "optimized.onnx"
_TIME = "_kernel_time"
_TYPES: dict[str, ComputedIn] = {"uint8": "int8", "int8": "int8", "float16": "fp16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    """Where a node stands in the graph; the defaults are those of a node in a branch or a loop."""

    outputs: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    givers: tuple[str, ...] = ()
    bytes_weights: int = 0


class OnnxRuntimeProbe:
    """A session that writes a profile, or without a folder for it one to be timed."""

    def __init__(self, model: bytes | str, feed: Feed, *, threads: int, where: str, folder: Path | None = None) -> None:
        """Open a model.

        Args:
            model: its bytes.
            feed: what it is run on.
            threads: of a run.
            where: what errors call it.
            folder: an empty one, for the profile; None: nothing is counted.

        Raises:
            ExportError: onnxruntime refuses it.
        """
        options = session_options(threads)
        if folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            options.optimized_model_filepath = str(folder / _OPTIMIZED)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"{where}: onnxruntime rejects it: {first_line(error)}") from error
        self._feed, self._where, self._folder = feed, where, folder

    def run(self) -> None:
        """Compute once.

        Raises:
            ExportError: onnxruntime fails on the input.
        """
        try:
            self._session.run(None, self._feed)
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ExportError(f"{self._where}: fails in onnxruntime: {first_line(error)}") from error

    def finish(self, skipped: int) -> Counts:
        """Return the counters of all runs but the first ones, and close the session."""
        assert self._folder is not None
        events = json.loads(Path(self._session.end_profiling()).read_text())
        graph = onnx.load(self._folder / _OPTIMIZED, load_external_data=False).graph
        runs = _runs(events)[skipped:]
        seen = {name: event for run in reversed(runs) for name, event in run.items()}
        names = list(seen)
        placed = _placed(graph)
        nodes = tuple(_node(name, seen[name], placed.get(name, _Placed())) for name in names)
        times = [[float(run[name]["dur"]) if name in run else 0.0 for name in names] for run in runs]
        return Counts(nodes=nodes, times_us=np.array(times))


def _runs(events: list[dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """Return the nodes' events of each run, by the node's name; `model_run` is written when a run ends."""
    runs: list[dict[str, dict[str, Any]]] = []
    current: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["name"] == "model_run":
            runs.append(current)
            current = {}
        elif event.get("cat") == "Node" and event["name"].endswith(_TIME):
            name = event["name"].removesuffix(_TIME)
            if name in current:  # a node of a loop's body runs several times
                event["dur"] += current[name]["dur"]
            current[name] = event
    return runs


def _placed(graph: onnx.GraphProto) -> dict[str, _Placed]:
    """Return where each node stands in the optimized graph, with its weights: the profile leaves packed ones out."""
    giver = {output: node.name for node in graph.node for output in node.output}
    users: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            if name in giver:
                users.setdefault(giver[name], []).append(node.name)
    sizes = {
        tensor.name: math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
    }
    return {
        node.name: _Placed(
            outputs=tuple(node.output),
            users=tuple(users.get(node.name, ())),
            givers=tuple(giver[name] for name in node.input if name in giver),
            bytes_weights=sum(sizes.get(name, 0) for name in node.input),
        )
        for node in graph.node
    }


def _node(name: str, event: dict[str, Any], placed: _Placed) -> RuntimeNode:
    args = event["args"]
    kernel = str(args.get("op_name", ""))
    types = {kind for taken in args.get("input_type_shape", [])[:2] for kind in taken}
    return RuntimeNode(
        name=name,
        kernel=kernel,
        source_names=(_ADDED.sub("", name), *placed.outputs),
        computes=_COMPUTES.search(kernel) is not None,
        computed_in=next((_TYPES[kind] for kind in _TYPES if kind in types), "fp32"),
        bytes_read=int(args.get("activation_size", 0)),
        bytes_weights=placed.bytes_weights,
        bytes_written=int(args.get("output_size", 0)),
        users=placed.users,
        givers=placed.givers,
    )
