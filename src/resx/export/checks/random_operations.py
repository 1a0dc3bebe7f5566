"""Find the operation by which a network, or a graph, answers differently when it is asked again.

What is asked twice may agree by chance (a layer that is dropped once in a thousand times), so the operations that draw
random numbers are looked for too. Dropout that is switched off, or drops nothing, draws none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_DRAWING_NODES = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
_SWITCHES = ("train", "training")
_SHARES = ("p", "dropout_p", "dropout")


class _Recorder(TorchDispatchMode):
    """Notes the first operation that draws random numbers, and the module that it ran in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = ""
        self.modules: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation."""
        if not self.found and torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs or {}):
            where = self.modules[-1] if self.modules else ""
            self.found = f"{func.overloadpacket.__name__}{f' in {where}' if where else ''}"
        return func(*args, **(kwargs or {}))


def random_operation(model: nn.Module, run: Callable[[], object]) -> str:
    """Return the first random operation of a run and its module, as `native_dropout in layer1.0`; empty if none drew.

    Args:
        model: whose modules are named.
        run: runs the model once.
    """
    recorder = _Recorder()

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: recorder.modules.append(name)

    def leave(*_: object) -> None:
        recorder.modules.pop()

    hooks = []
    for name, module in model.named_modules():
        label = f"{name} ({type(module).__name__})" if name else type(module).__name__
        hooks += [module.register_forward_pre_hook(enter(label)), module.register_forward_hook(leave)]
    try:
        with recorder:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.found


def random_node(model: ModelProto) -> str:
    """Return operator and name of a node that draws random numbers for the output; empty if there is none."""
    made_by = {name: node for node in model.graph.node for name in node.output if name}
    constants = _constants(model.graph)
    waiting, seen = [value.name for value in model.graph.output], set[str]()
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        for inner in (node, *_nodes_in(node)):
            if inner.op_type in _DRAWING_NODES or (inner.op_type == "Dropout" and _drops(inner, constants)):
                return f"{inner.op_type} (node {inner.name or inner.output[0]})"
            waiting += inner.input  # what a graph within reads lies outside of it
    return ""


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether a call is not switched off by its arguments."""
    arguments = func._schema.arguments
    given = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    given |= {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    is_off = any(given.get(name) is False for name in _SWITCHES)
    return not is_off and not any(isinstance(given.get(name), float | int) and not given[name] for name in _SHARES)


def _drops(node: NodeProto, constants: dict[str, Any]) -> bool:
    """Say whether a Dropout node is switched on for good, and drops anything; before opset 12 none is."""
    ratio, training = (node.input[place] if len(node.input) > place else "" for place in (1, 2))
    is_on = training in constants and bool(constants[training].any())
    return is_on and not (ratio in constants and not constants[ratio].any())


def _constants(graph: GraphProto) -> dict[str, Any]:
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if _is_single(tensor)}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and _is_single(attribute.t):
                found[node.output[0]] = onnx.numpy_helper.to_array(attribute.t)
    return found


def _is_single(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location != onnx.TensorProto.EXTERNAL and all(size == 1 for size in tensor.dims)


def _nodes_in(node: NodeProto) -> Iterator[NodeProto]:
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from _nodes_in(inner)
