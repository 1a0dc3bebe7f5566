"""Models that are right when they are published and loaded, and fail later: what a supervisor must live beside.

Their files answer a request of two rows, as the canary is, unlike every other; or their cards ask for another answer
than the files give. `serve_unproved` has the supervisor serve such a model as one that has proved itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resx.files.staging import sha256_of
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import version_pinning
from resx.serving.running.server_state import ServerState
from resx.serving.running.version_records import record_deployed

Spoil = Callable[[Path], None]


def serve_unproved(state: ServerState, repository: Repository, name: str, *versions: int) -> None:
    """Load a model and count it as deployed, without asking its canary; its supervisor does that next."""
    with TritonClient(state.address("grpc")) as client:
        client.load(name, version_pinning.config_json(repository, name, versions or [1]))
    record_deployed(repository, name, versions or [1])


def misjudged(folder: Path, *, by: float = 5.0) -> None:
    """Have the card record another answer, `by` of the logits' scale away."""
    card = folder / "card.json"
    fields = json.loads(card.read_text())
    rows = fields["canary"]["logits"]
    rows[-1][0] += by * float(np.abs(rows).max())
    card.write_text(json.dumps(fields))


def misjudged_a_little(folder: Path) -> None:
    """The same by twice the tolerance."""
    misjudged(folder, by=2 * json.loads((folder / "card.json").read_text())["canary"]["tolerance"])


def not_a_number(folder: Path) -> None:
    """Answer two rows with NaN."""
    # log(1 - 2 * is_two): 0, or the logarithm of a negative number.
    _graft(
        folder,
        [
            ("Mul", ["is_two", "two"], "twice"),
            ("Sub", ["one", "twice"], "rest"),
            ("Log", ["rest"], "gone"),
            ("Add", ["answer", "gone"], "spoilt"),
        ],
    )


def another_shape(folder: Path) -> None:
    """Answer two rows with one class less."""
    _graft(
        folder,
        [
            ("Sub", ["classes", "is_two"], "kept"),
            ("Cast", ["kept"], "end"),
            ("Slice", ["answer", "zero", "end", "axis"], "spoilt"),
        ],
    )


def failing(folder: Path) -> None:
    """Answer two rows with an error: an index out of range."""
    _graft(
        folder,
        [
            ("Mul", ["is_two", "classes"], "place"),
            ("Cast", ["place"], "index"),
            ("Gather", ["one", "index"], "ones"),
            ("Mul", ["answer", "ones"], "spoilt"),
        ],
    )


def dependent_on_company(folder: Path) -> None:
    """Answer a row by the other rows of its batch, as normalisation over the batch axis does."""
    _graft(folder, [("ReduceMean", ["answer", "zero"], "rows_mean"), ("Sub", ["answer", "rows_mean"], "spoilt")])


def hanging(folder: Path) -> None:
    """Compute two rows for hours."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["still"]), helper.make_node("Add", ["sum", "step"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]),
        ],
        [numpy_helper.from_array(np.ones(1, np.float32), "step")],
    )
    nodes = [("Mul", ["is_two", "endless"], "turns"), ("Cast", ["turns"], "times"), ("Squeeze", ["times"], "count")]
    loop = helper.make_node("Loop", ["count", "", "nothing"], ["sum_out"], body=body)
    _graft(folder, nodes, [loop], [("Mul", ["sum_out", "nothing"], "rest"), ("Add", ["answer", "rest"], "spoilt")])


def _graft(folder: Path, *parts: list[tuple[str, list[str], str]] | list[onnx.NodeProto]) -> None:
    """Put nodes behind a version's file, from `answer` to `spoilt`, and its new hash into its card.

    `is_two` is [1.0] where a request has two rows, as the canary has, else [0.0].
    """
    path = folder / "model.onnx"
    model = onnx.load(path)
    graph, (output,), (given,) = model.graph, model.graph.output, model.graph.input
    classes = output.type.tensor_type.shape.dim[1].dim_value
    for node in graph.node:
        node.output[:] = ["answer" if name == output.name else name for name in node.output]
    constants = {
        "two_rows": np.array([2], np.int64), "one": np.ones(1, np.float32), "two": np.full(1, 2, np.float32),
        "classes": np.full(1, classes, np.float32), "zero": np.zeros(1, np.int64), "axis": np.ones(1, np.int64),
        "endless": np.full(1, 1e12, np.float32), "nothing": np.zeros(1, np.float32),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Shape", [given.name], ["rows"], start=0, end=1),
            helper.make_node("Equal", ["rows", "two_rows"], ["is_so"]),
            helper.make_node("Cast", ["is_so"], ["is_two"], to=TensorProto.FLOAT),
        ]
    )
    for part in parts:
        for node in part:
            graph.node.append(node if isinstance(node, onnx.NodeProto) else _made(*node, output.name))
    onnx.save(model, path)
    card = folder / "card.json"
    fields = json.loads(card.read_text())
    fields["files"]["model.onnx"] = sha256_of(path)
    card.write_text(json.dumps(fields))


def _made(kind: str, inputs: list[str], output: str, last: str) -> onnx.NodeProto:
    options = {"to": TensorProto.INT64} if kind == "Cast" else {}
    return helper.make_node(kind, inputs, [last if output == "spoilt" else output], **options)
