"""Batch norms disappear into their neighbours, exactly, or become convolutions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resx.card.kinds import TARGETS, Target
from resx.errors import ExportError
from resx.export.graph import batchnorm_fusion, onnx_writer
from resx.runtimes import onnx_reader
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.training import evaluation
from resx.zoo.building import build_from_spec
from tests.support.small_networks import tiny_densenet, with_statistics
from tests.support.tiny_models import tiny_spec


def largest_difference(model: nn.Module, other: nn.Module, *shape: int) -> float:
    x = torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
        return float((other(x) - expected).abs().max() / expected.abs().max())


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)),
        (nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        (nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)),
        (nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3, groups=3, stride=2, bias=False)),
        (nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)),
        (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4)),
        (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 4, bias=False)),
    ],
    ids=["conv-bn", "grouped conv-bn", "bn-conv", "bn-grouped conv", "bn-conv-bn", "linear-bn", "bn-linear"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_norm_beside_a_layer_disappears_into_it(layers: tuple[nn.Module, ...], target: Target) -> None:
    model = with_statistics(nn.Sequential(*layers))
    fused = batchnorm_fusion.fuse(model, target=target)
    assert num_norms(fused) == 0
    assert not any(isinstance(layer, nn.Conv2d) and layer.groups == 6 for layer in fused.modules())
    assert largest_difference(model, fused, 2, 6, 7, 7) < 1e-5


def test_a_batch_norm_in_front_of_a_padded_convolution_stays() -> None:
    model = with_statistics(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, padding=1)))
    assert num_norms(batchnorm_fusion.fuse(model, target="gpu")) == 1
    assert largest_difference(model, batchnorm_fusion.fuse(model, target="cpu"), 2, 6, 7, 7) < 1e-5


def doubled(norm: nn.Module) -> nn.Module:
    norm.register_forward_hook(lambda _module, _inputs, answer: 2 * answer)
    return norm


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "layers",
    [
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 8, 3)), nn.BatchNorm2d(8)),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 8, 3)), nn.BatchNorm2d(8)),
        (nn.Conv2d(6, 8, 3), doubled(nn.BatchNorm2d(8))),
        (doubled(nn.BatchNorm2d(6)), nn.Conv2d(6, 8, 3)),
    ],
    ids=["spectral norm", "weight norm", "hook behind", "hook in front"],
)
def test_a_layer_that_is_computed_anew_at_each_call_is_left_alone(
    layers: tuple[nn.Module, ...], target: Target
) -> None:
    model = with_statistics(nn.Sequential(*layers))
    assert largest_difference(model, batchnorm_fusion.fuse(model, target=target), 2, 6, 7, 7) < 1e-5


def test_a_network_whose_code_looks_at_shapes_is_copied_as_it_is() -> None:
    class Looking(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.shape[2] > 4 else x

    model = with_statistics(Looking(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)))
    with pytest.raises(ExportError, match="TraceError: symbolically traced variables cannot be used as inputs"):
        batchnorm_fusion.trace(model)
    fused = batchnorm_fusion.fuse(model, target="cpu")
    assert fused is not model
    assert num_norms(fused) == 1
    assert largest_difference(model, fused, 2, 6, 7, 7) == 0
    assert batchnorm_fusion.operators(model) == {}


@pytest.mark.parametrize(
    ("conv", "pool", "swapped"),
    [
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(2), True),
        (nn.Conv2d(6, 4, 1, groups=2), nn.AvgPool2d(3, stride=2), True),
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(2, padding=1), False),
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(2, ceil_mode=True), False),
        (nn.Conv2d(6, 4, 1), nn.AvgPool2d(2, divisor_override=3), False),
        (nn.Conv2d(6, 4, 3), nn.AvgPool2d(2), False),
        (nn.Conv2d(6, 4, 1, stride=2), nn.AvgPool2d(2), False),
        (nn.Conv2d(6, 4, 1), nn.MaxPool2d(2), False),
    ],
)
def test_a_pointwise_convolution_runs_behind_average_pooling_for_the_cpu(
    conv: nn.Module, pool: nn.Module, swapped: bool
) -> None:
    model = nn.Sequential(conv, pool, nn.Tanh()).eval()  # which, unlike ReLU, never makes all of the outputs zero
    for target in TARGETS:
        fused = batchnorm_fusion.fuse(model, target=target)
        order = [type(fused.get_submodule(str(node.target))) for node in fused.graph.nodes if node.op == "call_module"]  # type: ignore[union-attr]
        assert (order[0] is type(pool)) == (swapped and target == "cpu")
        assert largest_difference(model, fused, 2, 6, 9, 9) < 1e-5


class Shared(nn.Module):
    """A convolution that is called twice, once with a batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))


class TwoUsers(nn.Module):
    """A convolution whose output is used beside the batch norm's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        torch.sin(y)  # a dead branch
        return y + self.norm(y)


@pytest.mark.parametrize("model", [Shared(), TwoUsers()], ids=["called twice", "used twice"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_layer_that_others_use_too_is_not_changed(model: nn.Module, target: Target) -> None:
    model = with_statistics(model)
    fused = batchnorm_fusion.fuse(model, target=target)
    assert largest_difference(model, fused, 2, 4, 5, 5) < 1e-5
    assert "sin" not in batchnorm_fusion.operators(fused)


def test_fusing_leaves_the_network_as_it_was() -> None:
    model = with_statistics(build_from_spec(tiny_densenet(), seed=0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batchnorm_fusion.fuse(model, target="cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_densenets_form_for_the_cpu_has_no_batch_norm_and_computes_the_same(tmp_path: Path) -> None:
    spec = tiny_densenet()
    model = with_statistics(build_from_spec(spec, seed=0))
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    expected = evaluation.logits(model, spec, images).numpy()
    norms = {}
    for target in TARGETS:
        path = tmp_path / f"{target}.onnx"
        file = onnx_writer.write_onnx(model, spec, path, precision="fp32", input_type="uint8", target=target)
        norms[target] = onnx_reader.operators(file).get("BatchNormalization", 0)
        difference = np.abs(OnnxRuntimeModel(path)(images) - expected).max()
        assert difference < 1e-4 * np.abs(expected).max()
    assert norms == {
        "cpu": 0,
        "gpu": batchnorm_fusion.operators(batchnorm_fusion.fuse(model, target="gpu"))["BatchNormalization"],
    }
    assert norms["gpu"] > 0


@pytest.mark.parametrize("between", [nn.Identity(), nn.Dropout(0.5), nn.Dropout2d(0.5)])
def test_what_does_nothing_in_evaluation_keeps_no_convolution_from_its_batch_norm(between: nn.Module) -> None:
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), between, nn.BatchNorm2d(4), nn.ReLU()))
    fused = batchnorm_fusion.fuse(network, target="gpu")

    assert batchnorm_fusion.operators(fused) == {"Conv": 1, "Relu": 1}
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fused(images), network.eval()(images), atol=1e-6)


def test_operators_are_counted_in_onnxs_words() -> None:
    counts = batchnorm_fusion.operators(build_from_spec(tiny_spec(), seed=0))
    assert counts["Conv"] == counts["BatchNormalization"] == 7
    assert counts["Gemm"] == 1
    assert counts["Add"] == 3


class LooksAtTheSize(nn.Module):
    """As the head of timm's VGG: what it does depends on the size of its image, which a trace has no number for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 3:
            x = nn.functional.adaptive_avg_pool2d(x, (3, 3))
        return self.conv(x)


class LoopsOverChannels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + sum(x[:, channel : channel + 1] for channel in range(x.shape[1]))


class PadsItself(nn.Conv2d):
    """As timm's Conv2dSame: its padding is 0, and its code pads by the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        width = max(0, (-(-x.shape[-1] // 2) - 1) * 2 + 3 - x.shape[-1])
        return self._conv_forward(nn.functional.pad(x, (width, 0, width, 0)), self.weight, self.bias)


class PoolsItself(nn.AvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[-1] > 4 else x * x)


class Doubles(nn.Identity):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if x.shape[-1] > 1 else x


class Branches(nn.Module):
    """A block whose own code branches, with a batch norm in it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.shape[2] > 4 else x


@pytest.mark.parametrize(
    ("inside", "norms_left"),
    [
        (LooksAtTheSize(8), 0), (nn.Sequential(LooksAtTheSize(8), LooksAtTheSize(8)), 0), (LoopsOverChannels(), 0),
        (nn.Sequential(LoopsOverChannels(), LooksAtTheSize(8)), 0), (Branches(8), 1), (Doubles(), 0),
    ],
    ids=["size", "size twice", "channels", "both", "block", "identity"],
)  # fmt: skip
@pytest.mark.parametrize("target", TARGETS)
def test_a_part_that_looks_at_shapes_is_left_whole_and_the_rest_is_fused(
    inside: nn.Module, norms_left: int, target: Target
) -> None:
    model = with_statistics(
        nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), inside, nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    )
    fused = batchnorm_fusion.fuse(model, target=target)
    assert num_norms(fused) == norms_left
    assert largest_difference(model, fused, 2, 6, 9, 9) < 1e-5
    assert batchnorm_fusion.operators(model)["Conv"] == 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "layers",
    [
        (nn.BatchNorm2d(6), PadsItself(6, 8, 3, stride=2)),
        (PadsItself(6, 8, 3, stride=2), nn.BatchNorm2d(8)),
        (nn.Conv2d(6, 8, 1), PoolsItself(2)),
        (PadsItself(6, 8, 1, stride=1), nn.AvgPool2d(2)),
    ],
    ids=["in front", "behind", "pooling", "pooled"],
)
def test_a_layer_with_code_of_its_own_is_not_taken_for_torchs(layers: tuple[nn.Module, ...], target: Target) -> None:
    model = with_statistics(nn.Sequential(*layers))
    assert largest_difference(model, batchnorm_fusion.fuse(model, target=target), 2, 6, 9, 9) < 1e-5


def test_the_networks_own_code_that_looks_at_shapes_is_the_reason_not_to_fuse() -> None:
    with pytest.raises(ExportError, match="control flow"):
        batchnorm_fusion.trace(Branches(4))
