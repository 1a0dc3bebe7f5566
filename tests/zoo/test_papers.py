"""The networks are those of the papers and of their authors' code, to the unit and in FP64.

What stands here as a port was written from the papers and the published code's descriptions, and shares nothing with
the networks but their weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resx
from resx.errors import UsageError
from resx.zoo import depths
from resx.zoo.architectures import Architecture, DenseNetArchitecture, ResNetArchitecture
from resx.zoo.building import build_from_spec, count
from resx.zoo.catalog import VARIANTS
from resx.zoo.families.residual_blocks import PaddingShortcut, PoolingShortcut
from resx.zoo.spec import ModelSpec

State = Mapping[str, Tensor]


# --- Parameters, by arithmetic from the papers' tables


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    return inputs * outputs * kernel**2 // groups


def _norm(channels: int) -> int:
    return 2 * channels


def _linear(inputs: int, outputs: int = 10) -> int:
    return (inputs + 1) * outputs


def _resnet(depth: int) -> int:
    """He et al. 2015, section 4.2: 6n + 2 layers, option A."""
    total, channels = _conv(3, 16, 3) + _norm(16), 16
    for width in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            total += _conv(channels, width, 3) + _norm(width) + _conv(width, width, 3) + _norm(width)
            channels = width
    return total + _linear(64)


def _preresnet_basic(depth: int) -> int:
    """He et al. 2016: a batch norm before each convolution and one behind the last unit; option A."""
    total, channels = _conv(3, 16, 3), 16
    for width in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            total += _norm(channels) + _conv(channels, width, 3) + _norm(width) + _conv(width, width, 3)
            channels = width
    return total + _norm(64) + _linear(64)


def _preresnet_bottleneck(depth: int) -> int:
    """As resnet-1k-layers: the first unit of a stage has a projection."""
    total, channels = _conv(3, 16, 3), 16
    for width in (16, 32, 64):
        for unit in range((depth - 2) // 9):
            total += _norm(channels) + _conv(channels, width, 1)
            total += _norm(width) + _conv(width, width, 3) + _norm(width) + _conv(width, 4 * width, 1)
            total += 0 if unit else _conv(channels, 4 * width, 1)
            channels = 4 * width
    return total + _norm(256) + _linear(256)


def _resnext(cardinality: int, group_width: int) -> int:
    """Xie et al. 2016, section 5.3: 29 layers."""
    total, channels = _conv(3, 64, 3) + _norm(64), 64
    for stage in range(3):
        inner, outer = cardinality * group_width * 2**stage, 256 * 2**stage
        for block in range(3):
            total += _conv(channels, inner, 1) + _norm(inner)
            total += _conv(inner, inner, 3, cardinality) + _norm(inner) + _conv(inner, outer, 1) + _norm(outer)
            total += 0 if block else _conv(channels, outer, 1) + _norm(outer)
            channels = outer
    return total + _linear(1024)


def _densenet(num_layers: int, growth_rate: int, *, stem: int, is_bc: bool) -> int:
    """Huang et al. 2017, section 3: three dense blocks."""
    total, channels = _conv(3, stem, 3), stem
    for block in range(3):
        for _ in range(num_layers):
            if is_bc:
                inner = 4 * growth_rate
                total += _norm(channels) + _conv(channels, inner, 1) + _norm(inner) + _conv(inner, growth_rate, 3)
            else:
                total += _norm(channels) + _conv(channels, growth_rate, 3)
            channels += growth_rate
        if block < 2:
            passed_on = channels // 2 if is_bc else channels
            total += _norm(channels) + _conv(channels, passed_on, 1)
            channels = passed_on
    return total + _norm(channels) + _linear(channels)


def _highway19() -> int:
    """cifar10_network.prototxt: three stages of 4, 5 and 5 highway layers, a 1x1 convolution of 100 outputs."""
    total, channels = 0, 3
    for num_layers, width in ((4, 32), (5, 80), (5, 128)):
        total += _conv(channels, width, 3) + width + num_layers * 2 * (_conv(width, width, 3) + width)
        channels = width
    return total + _conv(128, 100, 1) + 100 + _linear(100)


OFFICIAL = {
    **{f"resnet{depth}": _resnet(depth) for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"plain{depth}": _resnet(depth) for depth in (20, 56)},
    "preresnet110": _preresnet_basic(110),
    "preresnet164": _preresnet_bottleneck(164),
    "preresnet1001": _preresnet_bottleneck(1001),
    "resnext29_8x64d": _resnext(8, 64),
    "resnext29_16x64d": _resnext(16, 64),
    "densenet40_12": _densenet(12, 12, stem=16, is_bc=False),
    "densenet_bc_100_12": _densenet(16, 12, stem=24, is_bc=True),
    "densenet_bc_190_40": _densenet(31, 40, stem=80, is_bc=True),
    "highway19": _highway19(),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_named_network_has_the_official_number_of_parameters_to_the_unit(name: str) -> None:
    assert VARIANTS[name].num_parameters == OFFICIAL[name]  # which test_catalog.py counts in the built network


def test_the_sums_are_the_numbers_that_were_read_off() -> None:
    assert OFFICIAL["highway19"] == 2_256_838
    assert OFFICIAL["preresnet110"] == OFFICIAL["resnet110"] == 1_727_962
    assert set(OFFICIAL) | {"highway32"} == {name for name, v in VARIANTS.items() if v.spec.image_size == 32}


def test_a_network_of_our_own_design_carries_no_figure_of_the_paper() -> None:
    assert VARIANTS["highway32"].error_percent is None
    assert VARIANTS["highway19"].error_percent == 7.60  # of the pooled network: 7.54 has a fully connected layer


# --- Ports in FP64


def _doubled(spec: ModelSpec, *, survival: float = 1.0) -> nn.Module:
    """A network in FP64 whose batch norms and biases do something, in evaluation mode."""
    model = build_from_spec(spec.with_changes(survival=survival), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return model.eval()


def _spec(architecture: Architecture) -> ModelSpec:
    return ModelSpec.model_validate(VARIANTS["resnet20"].spec.model_dump() | {"architecture": architecture})


def _images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _bn(state: State, name: str, x: Tensor) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def _option_a(x: Tensor, outputs: int, stride: int) -> Tensor:
    smaller = x[:, :, ::stride, ::stride]
    zeros = torch.zeros(len(x), outputs - x.shape[1], *smaller.shape[2:], dtype=x.dtype)
    return torch.cat([smaller, zeros], 1)


def _averaged(x: Tensor, outputs: int, stride: int) -> Tensor:
    n, channels, height, width = x.shape
    smaller = x.reshape(n, channels, height // stride, stride, width // stride, stride).mean((3, 5))
    zeros = torch.zeros(n, outputs - channels, height // stride, width // stride, dtype=x.dtype)
    return torch.cat([smaller, zeros], 1)


def _highway_port(state: State, x: Tensor) -> Tensor:
    """The layers of cifar10_network.prototxt as its test phase runs them."""
    for stage, num_layers in enumerate((4, 5, 5)):
        if stage:
            x = F.max_pool2d(x, 2, 2)
        x = F.relu(F.conv2d(x, state[f"stages.{stage}.conv.weight"], state[f"stages.{stage}.conv.bias"], padding=1))
        for layer in range(num_layers):
            name = f"stages.{stage}.layers.{layer}"
            block = F.relu(F.conv2d(x, state[f"{name}.transform.weight"], state[f"{name}.transform.bias"], padding=1))
            gate = torch.sigmoid(F.conv2d(x, state[f"{name}.gate.weight"], state[f"{name}.gate.bias"], padding=1))
            x = block * gate + x * (1 - gate)
    x = F.relu(F.conv2d(x, state["head.0.weight"], state["head.0.bias"]))
    return F.linear(F.avg_pool2d(x, 8)[:, :, 0, 0], state["fc.weight"], state["fc.bias"])


def _preresnet_port(state: State, x: Tensor, units: int, *, is_bottleneck: bool) -> Tensor:
    """Full pre-activation as in the appendix; a bottleneck's stride on its 3x3."""
    x = F.relu(_bn(state, "bn1", F.conv2d(x, state["conv1.weight"], padding=1)))
    for stage, width in enumerate((16, 32, 64), start=1):
        for unit in range(units):
            name, stride = f"layer{stage}.{unit}", 2 if stage > 1 and unit == 0 else 1
            outputs = 4 * width if is_bottleneck else width
            activated = x if (stage, unit) == (1, 0) else F.relu(_bn(state, f"{name}.bn1", x))
            changes = stride > 1 or x.shape[1] != outputs
            shortcut = activated if changes else x
            if changes and is_bottleneck:
                shortcut = F.conv2d(shortcut, state[f"{name}.downsample.0.weight"], stride=stride)
            elif changes:
                shortcut = _option_a(shortcut, outputs, stride)
            y = activated
            for number, kernel in enumerate((1, 3, 1) if is_bottleneck else (3, 3), start=1):
                y = y if number == 1 else F.relu(_bn(state, f"{name}.bn{number}", y))
                strides = number == (2 if is_bottleneck else 1)
                weight = state[f"{name}.conv{number}.weight"]
                y = F.conv2d(y, weight, padding=kernel // 2, stride=stride if strides else 1)
            x = shortcut + y
    x = F.relu(_bn(state, "last_bn", x)).mean((2, 3))
    return F.linear(x, state["fc.weight"], state["fc.bias"])


def _stochastic_port(state: State, x: Tensor, blocks: int, survival: list[float]) -> Tensor:
    """The published code of stochastic depth at test time: ReLU(skip + p f(x)), its skip averaging where it strides."""
    x = F.relu(_bn(state, "bn1", F.conv2d(x, state["conv1.weight"], padding=1)))
    probabilities = iter(survival)
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], padding=1, stride=stride)
            y = F.conv2d(F.relu(_bn(state, f"{name}.bn1", y)), state[f"{name}.conv2.weight"], padding=1)
            x = F.relu(_averaged(x, width, stride) + next(probabilities) * _bn(state, f"{name}.bn2", y))
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


POOLED = _spec(ResNetArchitecture.model_validate(depths.resnet_cifar(20).model_dump() | {"shortcut": "pooling"}))
PORTS: dict[str, tuple[ModelSpec, Callable[[State, Tensor], Tensor]]] = {
    "highway19": (VARIANTS["highway19"].spec, _highway_port),
    "preresnet, basic": (
        _spec(depths.preresnet_cifar(20, block="basic")),
        lambda state, x: _preresnet_port(state, x, 3, is_bottleneck=False),
    ),
    "preresnet, bottleneck": (
        _spec(depths.preresnet_cifar(29, block="bottleneck")),
        lambda state, x: _preresnet_port(state, x, 3, is_bottleneck=True),
    ),
    "stochastic depth": (
        POOLED.with_changes(survival=0.5),
        lambda state, x: _stochastic_port(state, x, 3, [1 - block / 9 * 0.5 for block in range(1, 10)]),
    ),
}


@pytest.mark.parametrize("kind", PORTS)
def test_a_network_computes_in_fp64_what_a_port_of_the_paper_computes(kind: str) -> None:
    spec, port = PORTS[kind]
    model = _doubled(spec, survival=spec.survival)

    with torch.inference_mode():
        answer, expected = model(_images()), port(model.state_dict(), _images())

    assert expected.std() > 1e-3
    torch.testing.assert_close(answer, expected, rtol=1e-10, atol=1e-12)


# --- Shortcuts without weights


def test_a_pooling_shortcut_averages_and_adds_channels_of_zeros() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)

    pooled = PoolingShortcut(1, 3, stride=2)(x)

    assert pooled[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert pooled.shape == (1, 3, 2, 2)
    assert not pooled[0, 1:].any()


@pytest.mark.parametrize("family", ["resnet", "preresnet"])
@pytest.mark.parametrize("size", [15, 17, 30])
def test_a_pooling_shortcut_fits_its_branch_at_odd_sizes_too(family: str, size: int) -> None:
    made = depths.resnet_cifar(8) if family == "resnet" else depths.preresnet_cifar(8, block="basic")
    spec = _spec(type(made).model_validate(made.model_dump() | {"shortcut": "pooling"}))

    assert _doubled(spec)(_images(size)).shape == (2, 10)


@pytest.mark.parametrize(("shortcut", "kind"), [("padding", PaddingShortcut), ("pooling", PoolingShortcut)])
def test_the_shortcut_is_a_setting_of_resnets_and_preactivation_resnets(shortcut: str, kind: type[nn.Module]) -> None:
    for name in ("resnet20", "preresnet18", "resnet50"):
        spec = VARIANTS[name].spec.with_settings([f"shortcut={shortcut}"])
        with torch.device("meta"):
            model = build_from_spec(spec, seed=None)
        reshaping = [block.downsample for block in model.blocks() if block.downsample is not None]
        assert {type(module) for module in reshaping} == {kind}
        assert not any(list(module.parameters()) for module in reshaping)


def test_a_preactivation_network_cannot_be_without_shortcuts() -> None:
    with pytest.raises(UsageError, match="shortcut"):
        VARIANTS["preresnet18"].spec.with_settings(["shortcut=none"])


# --- Dropout


def _order_of_layers(model: nn.Module, images: Tensor) -> list[str]:
    """Convolutions, linear layers and dropouts in the order in which they run."""
    order: list[str] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Dropout):
            kind = type(module).__name__ + ("" if not isinstance(module, nn.Dropout) else f" {module.p}")
            module.register_forward_hook(lambda *_, kind=kind: order.append(kind))
    model(images)
    return order


@pytest.mark.parametrize("name", ["densenet40_12", "densenet_bc_100_12"])
def test_a_densenet_has_dropout_behind_every_convolution_but_the_first(name: str) -> None:
    spec = VARIANTS[name].spec.with_settings(["dropout=0.2", "block_depths=[2,2,2]"])

    order = _order_of_layers(build_from_spec(spec, seed=0), _images().float())

    first, *others, last = order
    assert (first, last) == ("Conv2d", "Linear")
    assert others == ["Conv2d", "Dropout 0.2"] * (len(others) // 2)
    assert "Dropout 0.2" not in _order_of_layers(build_from_spec(VARIANTS[name].spec, seed=0), _images().float())


def test_the_highway_network_has_dropout_before_each_stage_and_before_the_classifier() -> None:
    order = _order_of_layers(resx.build("highway19", seed=0), _images().float())

    stages = ("Dropout 0.2 " + "Conv2d " * num for num in (1 + 2 * 4, 1 + 2 * 5, 1 + 2 * 5))
    assert " ".join(order).replace("Dropout 0.2", "D") == ("".join(stages) + "Conv2d Dropout 0.2 Linear").replace(
        "Dropout 0.2", "D"
    )


def test_the_alternating_highway_network_sees_3x3_and_1x1_in_turn() -> None:
    model = resx.build("highway32", seed=0)

    for stage in model.stages:
        kernels = [stage.conv.kernel_size[0], *(layer.transform.kernel_size[0] for layer in stage.layers)]
        assert kernels == [3, 1] * 5
        assert kernels[1:] == [layer.gate.kernel_size[0] for layer in stage.layers]


def test_recomputation_loses_again_what_dropout_lost() -> None:
    fields = {"block_depths": (3, 3), "growth_rate": 4, "stem_width": 6, "stem": "cifar", "dropout": 0.5}
    kept, recomputed = (
        build_from_spec(_spec(DenseNetArchitecture(**fields, recompute=recompute)), seed=0)
        for recompute in (False, True)
    )
    for model in (kept, recomputed):
        torch.manual_seed(1)
        model(_images(16).float()).square().sum().backward()

    for ours, theirs in zip(kept.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("densenet40_12", "dropout=1", "dropout"),
        ("densenet40_12", "dropout=-0.1", "dropout"),
        ("highway19", "dropout=NaN", "dropout"),
        ("highway19", "receptive_fields=[3,2]", "receptive_fields"),
        ("highway19", "receptive_fields=[]", "receptive_fields"),
        ("highway19", "head_width=-1", "head_width"),
        ("resnet20", "dropout=0.2", "give field=value"),
    ],
)
def test_an_option_out_of_its_range_is_one_line(name: str, setting: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        VARIANTS[name].spec.with_settings([setting])

    assert "\n" not in str(caught.value)


# --- What was written before these fields

# spec.json's `architecture` as earlier versions wrote it, and the parameters of that network.
EARLIER = {
    "highway19": (
        '{"family":"highway","stage_depths":[6,6,6],"stage_widths":[32,80,128],"gate_bias":-2.0}', 2_262_714
    ),
    "highway32": (
        '{"family":"highway","stage_depths":[10,10,11],"stage_widths":[24,48,64],"gate_bias":-2.0}', 1_245_866
    ),
    "preresnet110": (
        '{"family":"preresnet","block":"basic","stage_depths":[18,18,18],"width":16,"variant":"full_preactivation",'
        '"stem":"cifar"}', 1_730_522
    ),
    "densenet40_12": (
        '{"family":"densenet","block_depths":[12,12,12],"growth_rate":12,"stem_width":16,"bottleneck":0,'
        '"compression":1.0,"stem":"cifar","recompute":false}', 1_019_722
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_spec_is_the_network_that_it_was(name: str) -> None:
    architecture, num_parameters = EARLIER[name]
    written = VARIANTS[name].spec.model_dump() | {"architecture": json.loads(architecture)}

    spec = ModelSpec.model_validate_json(json.dumps(written))

    assert count(spec).num_parameters == num_parameters
    assert not any(isinstance(module, nn.Dropout) for module in build_from_spec(spec, seed=None).modules())


def test_an_earlier_networks_weights_of_a_seed_are_what_they_were() -> None:
    written = VARIANTS["highway19"].spec.model_dump() | {"architecture": json.loads(EARLIER["highway19"][0])}
    model = build_from_spec(ModelSpec.model_validate(written), seed=0)

    first = [round(float(parameter.detach().flatten()[0]), 5) for parameter in model.parameters()][:6]
    assert first == [-0.14057, 0.0, 0.05789, 0.0, 0.10274, -2.0]
    assert next(iter(model.state_dict())) == "stages.0.conv.weight"
    assert not any(name.startswith("head.") for name in model.state_dict())
