"""OpenVINO's own counters of a model (PERF_COUNT), and what its runtime graph says of each node.

A node of that graph lists the nodes of the file that it was fused of (`originalLayersNames`). OpenVINO adds to a name:
`conv1/WithoutBiases`. A node that converts a layout has no original, and belongs to the nodes around it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from resx.card.runtime import PrecisionHint
from resx.errors import ExportError
from resx.runtimes.float_state import keep_float_state, read_float_state
from resx.runtimes.openvino_model import compile_options
from resx.runtimes.openvino_package import load_openvino, new_core, reason_of
from resx.runtimes.profiling.counters import ComputedIn, Counts, Feed, RuntimeNode

_COMPUTES = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_IDLE = ("Const", "Input", "Output", "Parameter", "Result")
_PRECISIONS: dict[str, ComputedIn] = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8"}
_BYTES = {"f32": 4, "i32": 4, "u32": 4, "bf16": 2, "f16": 2, "u8": 1, "i8": 1, "boolean": 1, "i64": 8, "f64": 8}


class OpenVinoProbe:
    """A compiled model whose counters are on, or, to time it as it is served, off."""

    def __init__(
        self,
        model: bytes | str,
        feed: Feed,
        *,
        threads: int,
        where: str,
        hint: PrecisionHint,
        counting: bool = True,
    ) -> None:
        """Open a model; `where` is what errors call it.

        Raises:
            ExportError: OpenVINO refuses it.
            MissingCapability: OpenVINO is missing.
        """
        openvino = load_openvino()
        core = new_core()
        (name, array), *_ = feed.items()
        try:
            network = core.read_model(model)
            network.reshape({name: list(array.shape)})
            options = compile_options(hint, threads) | {"PERF_COUNT": counting}
            with keep_float_state():
                self._compiled = core.compile_model(network, "CPU", options)
                self._float_state = read_float_state()
            self._request = self._compiled.create_infer_request()
            self._request.set_tensor(name, openvino.Tensor(array))
        except Exception as error:  # RuntimeError and others: OpenVINO's errors have no base of their own
            raise ExportError(f"{where}: OpenVINO rejects it: {reason_of(error)}") from error
        self._counting, self._where = counting, where
        self._runs: list[dict[str, float]] = []

    def run(self) -> None:
        """Compute once.

        Raises:
            ExportError: OpenVINO fails on the input.
        """
        try:
            with keep_float_state(self._float_state):
                self._request.infer()
        except Exception as error:
            raise ExportError(f"{self._where}: fails in OpenVINO: {reason_of(error)}") from error
        if self._counting:
            counters = self._request.get_profiling_info()
            self._runs.append({one.node_name: 1e6 * one.real_time.total_seconds() for one in counters})

    def finish(self, skipped: int) -> Counts:
        """Return the counters of all runs but the first ones."""
        # Not by their status: what took no whole microsecond is said not to have run.
        ran = [op for op in self._compiled.get_runtime_model().get_ordered_ops() if _said(op)["layerType"] not in _IDLE]
        nodes = tuple(map(_node, ran))
        times = [[run.get(node.name, 0.0) for node in nodes] for run in self._runs[skipped:]]
        return Counts(nodes=nodes, times_us=np.array(times))


def _node(op: Any) -> RuntimeNode:
    says = _said(op)
    givers = [value.get_source_output().get_node() for value in op.inputs()]
    moved = [giver for giver in givers if _said(giver)["layerType"] != "Const"]
    weights = [giver for giver in givers if _said(giver)["layerType"] == "Const"]
    computed_in = says["runtimePrecision"]
    most = _BYTES.get(computed_in, 4)  # weights are packed in what the node computes in
    return RuntimeNode(
        name=op.get_friendly_name(),
        kernel=says["primitiveType"],
        source_names=tuple(name for name in says["originalLayersNames"].split(",") if name),
        computes=says["layerType"].startswith(_COMPUTES),
        computed_in=_PRECISIONS.get(computed_in, "fp32"),
        bytes_read=sum(_size(giver) for giver in moved),
        bytes_weights=sum(_size(giver, most) for giver in weights),
        bytes_written=_size(op),
        users=tuple(user.get_node().get_friendly_name() for out in op.outputs() for user in out.get_target_inputs()),
        givers=tuple(giver.get_friendly_name() for giver in moved),
    )


def _said(op: Any) -> dict[str, str]:
    return {key: value.astype(str) for key, value in op.get_rt_info().items()}


def _size(op: Any, most: int = 8) -> int:
    """Return the bytes of a node's first output; of one with an open size none are known."""
    if not op.outputs() or op.get_output_partial_shape(0).is_dynamic:
        return 0
    precision = _said(op)["outputPrecisions"].split(",")[0]
    return int(np.prod(list(op.get_output_shape(0)), dtype=np.int64)) * min(most, _BYTES.get(precision, 4))
