"""Merge batch norms before export, exactly, and count the operators that are left.

In evaluation a batch norm is y = s x + t per channel, s = gamma / sqrt(var + eps), t = beta - s mean
(Ioffe & Szegedy 2015, section 3.1). So it disappears

    conv, bn      into the convolution before it:  s (W * x + b) + t = (s W) * x + (s b + t)
    linear, bn    likewise
    bn, conv      into the convolution behind it, where nothing is padded:  W * (s x + t) = (W s) * x + W * t.
                  Padding puts in zeros behind the batch norm, which t in front of it would turn into others.
    bn, linear    likewise

What is left (before a ReLU: DenseNet's and pre-activation ResNets') is for the CPU written as a depthwise
1x1 convolution with the weights s and the bias t. onnxruntime fuses a convolution with its ReLU and
quantises it per channel; of a batch norm it does neither in int8. (In fp32 onnxruntime 1.32 makes the same
convolution itself, where the channels suit its blocked layout.) TensorRT fuses batch norms itself.

Also for the CPU, a 1x1 convolution in front of average pooling changes places with it: both are linear, one
over channels, the other over places. After 2x2 pooling the convolution has a quarter of the work; DenseNet's
three transitions are a tenth of its multiply-adds.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from resx.card.kinds import Target
from resx.errors import ExportError, first_line

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""In evaluation mode."""

# What torch calls it, in ONNX's words; where torch has several ways to say one thing they count as one.
_ONNX_NAMES: Mapping[object, str] = {
    **dict.fromkeys(_CONVOLUTIONS, "Conv"), **dict.fromkeys(_NORMS, "BatchNormalization"), nn.Linear: "Gemm",
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), "Relu"),
    **dict.fromkeys((nn.MaxPool2d, F.max_pool2d), "MaxPool"),
    **dict.fromkeys((nn.AvgPool2d, F.avg_pool2d), "AveragePool"),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, "mean"), "ReduceMean"),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), "Add"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), "Mul"), torch.cat: "Concat",
    **dict.fromkeys((nn.Flatten, torch.flatten, "flatten", "view", "reshape"), "Reshape"),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d, F.dropout), "Dropout"), nn.Identity: "Identity",
    F.pad: "Pad", operator.getitem: "Slice", **dict.fromkeys((nn.Sigmoid, torch.sigmoid, "sigmoid"), "Sigmoid"),
}  # fmt: skip


def fuse(network: nn.Module, *, target: Target) -> nn.Module:
    """Return a copy in evaluation mode that computes the same, to rounding, with as few batch norms as can be.

    In fp32 and before any cast, so that each weight is rounded once. A layer that is called more than once
    is left as it is, and so is one that something computes anew at each call (a hook, a parametrization). Dead
    branches are removed. A network that torch.fx cannot trace is returned as it is: `trace` says why.
    """
    try:
        traced = trace(network)
    except ExportError:
        return copy.deepcopy(network).eval()
    traced.graph.eliminate_dead_code()
    _leave_out_what_does_nothing(traced)
    _merge_pairs(traced, _into_the_layer_before)
    _merge_pairs(traced, _into_the_layer_behind)
    if target == "cpu":
        _pool_first(traced)
        called = dict.fromkeys(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
        for name in called:  # not what lies in a module that was left whole: its code may look into it
            module = traced.get_submodule(name)
            if isinstance(module, nn.BatchNorm2d) and _has_statistics(module) and not _is_computed_anew(module):
                _replace(traced, name, depthwise(module))
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced


def _leave_out_what_does_nothing(traced: fx.GraphModule) -> None:
    """Remove identities and dropout, which stand between a convolution and its batch norm and do nothing here."""
    for node in list(traced.graph.nodes):
        module = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, _NOTHING) and not _is_computed_anew(module):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


class _Tracer(fx.Tracer):
    """Follows a network's code, but for modules of the given classes, which stay calls in its graph."""

    def __init__(self, whole: Collection[type[nn.Module]]) -> None:
        super().__init__()
        self.whole = whole
        self.inside: list[nn.Module] = []
        """The modules whose code runs, the innermost last; where it fails they stay here."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called rather than followed."""
        return type(m) in self.whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note where the trace is."""
        self.inside.append(m)
        answer = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return answer


def trace(network: nn.Module) -> fx.GraphModule:
    """Return a copy in evaluation mode as torch.fx's graph of calls.

    A module within whose code branches or loops over its input stays one call, with all others of its class: what lies
    around it can be merged all the same (the head of timm's VGG, which looks at the size of its image).

    Raises:
        ExportError: the network's own code branches or loops over its input, or does what torch.fx has no symbol for.
    """
    copied, whole = copy.deepcopy(network).eval(), set[type[nn.Module]]()
    while True:
        tracer = _Tracer(whole)
        try:
            return fx.GraphModule(copied, tracer.trace(copied), type(network).__name__)
        except Exception as error:  # it runs the network's own code on symbols
            if not tracer.inside or type(tracer.inside[-1]) in whole:
                raise ExportError(first_line(error, with_type=True)) from error
            whole.add(type(tracer.inside[-1]))


def depthwise(norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the batch norm as a 1x1 convolution of each channel by itself."""
    scale, shift = _affine(norm)
    layer = nn.Conv2d(norm.num_features, norm.num_features, 1, groups=norm.num_features)
    layer.weight = nn.Parameter(scale.view(-1, 1, 1, 1).contiguous())
    layer.bias = nn.Parameter(shift)
    return layer.eval()


def operators(network: nn.Module) -> dict[str, int]:
    """Count the operators of a network in evaluation mode, by ONNX's names; nothing is run or exported.

    None are counted where torch.fx cannot trace it.
    """
    try:
        traced = trace(network)
    except ExportError:
        return {}
    modules = dict(traced.named_modules())
    counts: Counter[str] = Counter()
    for node in traced.graph.nodes:
        if node.op == "call_module":
            kind = type(modules[node.target])
            counts[_ONNX_NAMES.get(kind, kind.__name__)] += 1
        elif node.op in ("call_function", "call_method"):
            counts[_ONNX_NAMES.get(node.target, getattr(node.target, "__name__", str(node.target)))] += 1
    return dict(sorted(counts.items()))


def _into_the_layer_before(first: nn.Module, second: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """Return what takes the place of a layer and of the batch norm behind it, or two None."""
    if isinstance(first, _CONVOLUTIONS) and isinstance(second, _NORMS) and _has_statistics(second):
        return fuse_conv_bn_eval(first, second), None
    if isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d) and _has_statistics(second):
        return fuse_linear_bn_eval(first, second), None
    return None, None


def _into_the_layer_behind(first: nn.Module, second: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    if not isinstance(first, _NORMS) or not _has_statistics(first):
        return None, None
    scale, shift = _affine(first)
    if isinstance(second, _CONVOLUTIONS) and not isinstance(second.padding, str) and not any(second.padding):
        return None, _scaled_input(second, scale, shift, groups=second.groups)
    if isinstance(second, nn.Linear) and isinstance(first, nn.BatchNorm1d):
        return None, _scaled_input(second, scale, shift, groups=1)
    return None, None


def _scaled_input(layer: nn.Module, scale: Tensor, shift: Tensor, *, groups: int) -> nn.Module:
    """Return the layer [O, I / groups, ...] that takes x where `layer` takes scale x + shift."""
    merged = copy.deepcopy(layer)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    ones = (1,) * (weight.dim() - 2)
    # An output channel of group g sees the g-th part of the input channels.
    scale_of, shift_of = (
        values.view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0).view(*weight.shape[:2], *ones)
        for values in (scale, shift)
    )
    added = (weight * shift_of).flatten(1).sum(1)
    merged.weight = nn.Parameter((weight * scale_of).detach())
    merged.bias = nn.Parameter((added if bias is None else bias + added).detach())
    return merged


def _merge_pairs(
    traced: fx.GraphModule, merged: Callable[[nn.Module, nn.Module], tuple[nn.Module | None, nn.Module | None]]
) -> None:
    """Replace each pair of modules, the second the first's only user, of which `merged` makes one."""
    num_calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        if num_calls[source.target] > 1 or num_calls[node.target] > 1:
            continue
        pair = [traced.get_submodule(str(call.target)) for call in (source, node)]
        if any(_is_computed_anew(layer) for layer in pair):
            continue
        before, behind = merged(*pair)
        if before is not None:
            _replace(traced, str(source.target), before)
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
        elif behind is not None and isinstance(source.args[0], fx.Node):
            _replace(traced, str(node.target), behind)
            source.replace_all_uses_with(source.args[0])
            traced.graph.erase_node(source)


def _pool_first(traced: fx.GraphModule) -> None:
    """Let a 1x1 convolution whose only user is average pooling run behind it."""
    num_calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for pool in list(traced.graph.nodes):
        conv = pool.args[0] if pool.op == "call_module" and pool.args else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module" or len(conv.users) > 1:
            continue
        layer, pooling = (traced.get_submodule(str(node.target)) for node in (conv, pool))
        if not isinstance(layer, nn.Conv2d) or not isinstance(pooling, nn.AvgPool2d) or num_calls[conv.target] > 1:
            continue
        if _is_computed_anew(layer) or _is_computed_anew(pooling):
            continue
        is_pointwise = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
        # Padding would average zeros in, which the convolution's bias behind it would turn into others.
        if (
            is_pointwise
            and pooling.padding in (0, (0, 0))
            and not pooling.ceil_mode
            and pooling.divisor_override is None
        ):
            pool.replace_all_uses_with(conv)
            pool.args = (conv.args[0], *pool.args[1:])
            conv.args = (pool,)
            pool.append(conv)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return s and t of y = s x + t, computed in fp64 and rounded once."""
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    dtype = norm.running_mean.dtype
    return scale.to(dtype), shift.to(dtype)


def _is_computed_anew(layer: nn.Module) -> bool:
    """Whether what the layer computes is not what its weights say.

    Spectral norm, weight norm, hooks of the user's; and a convolution, say, whose class adds code of its own to
    torch's: the trace keeps one whole that it cannot follow.
    """
    is_torchs = type(layer).__module__.startswith("torch.nn.")
    return not is_torchs or bool(layer._forward_hooks or layer._forward_pre_hooks) or is_parametrized(layer)


def _has_statistics(norm: nn.Module) -> bool:
    return getattr(norm, "running_mean", None) is not None


def _replace(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(traced.get_submodule(parent), child, module)
