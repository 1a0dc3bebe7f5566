"""A channel whose weights are almost nothing keeps its constant in int8."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from resx.card.kinds import TARGETS, Target
from resx.card.signature import signature_of
from resx.export.checks import parity
from resx.export.graph.onnx_writer import write_onnx
from resx.export.int8 import bias_scales, quantization
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from tests.support.int8_models import PHOTOGRAPHS
from tests.support.tiny_models import tiny_spec

SPEC = tiny_spec()


def behind(*layers: nn.Module) -> nn.Sequential:
    """Layers that give 8 channels, and a classifier behind them."""
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def kill(weight: Tensor, bias: Tensor, factor: float, constant: float) -> None:
    with torch.no_grad():
        weight[0] *= factor
        bias[0] = constant


def convolution(factor: float, constant: float = 5.0) -> nn.Module:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    kill(layer.weight, layer.bias, factor, constant)  # type: ignore[arg-type]
    return behind(layer)


def batch_norm() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    kill(norm.weight, norm.bias, 1e-20, 3.0)
    return behind(nn.Conv2d(3, 8, 3, padding=1), norm)


def batch_norm_first() -> nn.Module:
    """Nothing merges it: a depthwise convolution on the CPU."""
    norm = nn.BatchNorm2d(8)
    kill(norm.weight, norm.bias, 1e-20, 3.0)
    return behind(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), norm, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


def linear() -> nn.Module:
    layer = nn.Linear(3 * 16 * 16, 16)
    kill(layer.weight, layer.bias, 1e-6, 5.0)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(16, 10))


def transposed(groups: int) -> nn.Module:
    layer = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=groups)
    with torch.no_grad():
        layer.weight[: 8 // groups, 0] *= 1e-7
        layer.bias[0] = 5.0  # type: ignore[index]
    return behind(nn.Conv2d(3, 8, 3, padding=1), layer)


def zeros_behind_large_values() -> nn.Module:
    """Steps of 1 x the input's would be coarser than the bias."""
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    with torch.no_grad():
        first.weight *= 1000
        second.weight /= 1000
    kill(second.weight, second.bias, 0.0, 0.3)  # type: ignore[arg-type]
    return behind(first, nn.ReLU(), second)


class Twice(nn.Module):
    """One convolution on inputs of two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = torch.relu(self.shared(50 * torch.relu(self.shared(self.stem(x_NCHW)))))
        return self.last(x_NCHW.mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weights x 1e-5": lambda: convolution(1e-5), "denormal weights": lambda: convolution(1e-40),
    "batch norm": batch_norm, "batch norm first": batch_norm_first,
    "linear": linear, "transposed in groups": lambda: transposed(2),
    "zeros behind large values": zeros_behind_large_values, "one convolution twice": Twice,
}  # fmt: skip


def int8_logits(model: nn.Module, target: Target, folder: Path) -> tuple[np.ndarray, onnx.ModelProto]:
    signature = signature_of(SPEC, "uint8")
    write_onnx(model, SPEC, folder / "fp32.onnx", precision="fp32", input_type="uint8", target=target)
    quantization.prepare(folder / "fp32.onnx", folder / "prepared.onnx", target=target)
    ranges = quantization.find_ranges(folder / "prepared.onnx", PHOTOGRAPHS, "minmax", signature)
    written = quantization.quantise(folder / "prepared.onnx", ranges, target=target, keep_fp32=[])
    (folder / "int8.onnx").write_bytes(written.SerializeToString())
    return OnnxRuntimeModel(folder / "int8.onnx")(PHOTOGRAPHS), written


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_channel_keeps_its_constant(name: str, target: Target, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    answer, written = int8_logits(model, target, tmp_path)
    reference = parity.torch_logits(model, SPEC, PHOTOGRAPHS)
    assert np.abs(answer - reference).max() <= 0.03 * np.abs(reference).max()
    assert quantization.num_int8_weights(written) > 0.9 * sum(
        layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    )


def test_no_bias_takes_more_than_30_bits_and_other_channels_keep_their_ranges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _, written = int8_logits(convolution(1e-12).eval(), "cpu", tmp_path)
    biases = [numpy_helper.to_array(tensor) for tensor in written.graph.initializer if tensor.data_type == 6]
    largest = max(int(np.abs(bias.astype(np.int64)).max()) for bias in biases if bias.size)
    assert 2**29 < largest <= 2**30 + 1

    prepared = onnx.load(tmp_path / "prepared.onnx")
    ranges = quantization.find_ranges(tmp_path / "prepared.onnx", PHOTOGRAPHS, "minmax", signature_of(SPEC, "uint8"))
    ((name, channels),) = bias_scales.widen_weights(prepared, ranges).items()
    (weight,) = [numpy_helper.to_array(tensor) for tensor in prepared.graph.initializer if tensor.name == name]
    own = np.abs(weight).max((1, 2, 3))
    assert channels[0]["rmax"] > own[0]
    assert [channel["rmax"] for channel in channels[1:]] == pytest.approx(own[1:])


def test_weights_that_leave_room_for_their_bias_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    int8_logits(convolution(1.0).eval(), "cpu", tmp_path)
    ranges = quantization.find_ranges(tmp_path / "prepared.onnx", PHOTOGRAPHS, "minmax", signature_of(SPEC, "uint8"))
    assert bias_scales.widen_weights(onnx.load(tmp_path / "prepared.onnx"), ranges) == {}
