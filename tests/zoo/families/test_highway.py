"""A highway network's layers and gates, as its paper has them."""

import torch
from torch import Tensor, nn

import resx
from resx.zoo.catalog import VARIANTS
from resx.zoo.families.highway import HighwayLayer
from resx.zoo.families.residual_blocks import ResidualBlock


def test_gates_begin_by_carrying() -> None:
    layer = next(resx.build("highway19", seed=0).blocks())

    assert (layer.gate.bias == -2.0).all()
    assert VARIANTS["highway19"].spec.architecture.gate_bias == -2.0


def test_a_layer_is_the_papers_equation() -> None:
    torch.manual_seed(0)
    layer = HighwayLayer(4, gate_bias=-1.0).eval()
    x = torch.randn(2, 4, 6, 6)

    with torch.no_grad():
        transform, gate = torch.relu(layer.transform(x)), torch.sigmoid(layer.gate(x))
        assert torch.allclose(layer(x), transform * gate + x * (1 - gate), atol=1e-6)
        assert torch.allclose(layer(x), layer.shortcut(x) + layer.branch(x), atol=1e-6)


class _OneLayerBlock(ResidualBlock):
    """ReLU(x + ReLU(W * x + b))."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(None)
        self.conv = conv

    def branch(self, x_NCHW: Tensor) -> Tensor:
        return torch.relu(self.conv(x_NCHW))


def test_a_residual_block_is_a_highway_layer_whose_gates_are_held_open() -> None:
    torch.manual_seed(0)
    layer = HighwayLayer(4, gate_bias=-1.0).eval()
    nn.init.zeros_(layer.gate.weight)
    nn.init.constant_(layer.gate.bias, 100.0)  # T = 1
    layer.carry = 2.0  # C = carry - T = 1
    x = torch.relu(torch.randn(2, 4, 6, 6))  # as behind a ReLU, where every layer's input comes from

    with torch.no_grad():
        assert torch.equal(layer(x), _OneLayerBlock(layer.transform).eval()(x))


def test_closed_gates_carry_the_input() -> None:
    layer = HighwayLayer(4, gate_bias=-100.0).eval()
    nn.init.zeros_(layer.gate.weight)
    nn.init.constant_(layer.gate.bias, -100.0)
    x = torch.randn(2, 4, 6, 6)

    with torch.no_grad():
        assert torch.allclose(layer(x), x)
