"""Every family: folded equals source, in PyTorch and as an ONNX file that holds no trace of stochastic depth."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import resx
from resx.errors import ExportError
from resx.export.graph.onnx_writer import write_onnx
from resx.zoo.architectures import (
    Architecture,
    BlockVariant,
    BottleneckForm,
    DenseNetArchitecture,
    HighwayArchitecture,
    PreResNetArchitecture,
    ResNetArchitecture,
    Shortcut,
    VGGArchitecture,
)
from resx.zoo.building import build_from_spec
from resx.zoo.families.highway import HighwayLayer
from resx.zoo.families.preresnet import ORDERS
from resx.zoo.spec import ModelSpec, SurvivalSchedule

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _resnext(form: BottleneckForm) -> ResNetArchitecture:
    return ResNetArchitecture(
        block="bottleneck", stage_depths=(2, 1), width=8, inner_width=12, cardinality=3, form=form, stem="cifar"
    )


def _preresnet(variant: BlockVariant, block: str = "basic", shortcut: Shortcut = "projection") -> PreResNetArchitecture:
    return PreResNetArchitecture(
        block=block, stage_depths=(2, 2), width=8, variant=variant, stem="cifar", shortcut=shortcut
    )


DROPPABLE: dict[str, Architecture] = {
    "basic": ResNetArchitecture(block="basic", stage_depths=(2, 1), width=8, stem="cifar", shortcut="padding"),
    "bottleneck": ResNetArchitecture(block="bottleneck", stage_depths=(2, 1), width=8, inner_width=8),
    **{f"resnext, {form}": _resnext(form) for form in ("aggregated", "concatenated", "grouped")},
    **{variant: _preresnet(variant) for variant in ORDERS},
    **{f"{variant}, bottleneck": _preresnet(variant, "bottleneck") for variant in ORDERS},
    "preresnet, imagenet stem": PreResNetArchitecture(block="basic", stage_depths=(1, 2), width=8),
    "densenet": DenseNetArchitecture(block_depths=(2, 2), growth_rate=4, stem_width=6),
    "densenet, cifar": DenseNetArchitecture(
        block_depths=(3, 2), growth_rate=4, stem_width=6, bottleneck=0, compression=1.0, stem="cifar"
    ),
    "highway": HighwayArchitecture(stage_depths=(4, 3), stage_widths=(6, 8)),
    "pooling": ResNetArchitecture(block="basic", stage_depths=(2, 1), width=8, stem="cifar", shortcut="pooling"),
    "pooling, bottleneck": ResNetArchitecture(
        block="bottleneck", stage_depths=(2, 1), width=8, inner_width=8, shortcut="pooling"
    ),
    **{f"{variant}, padding": _preresnet(variant, shortcut="padding") for variant in ORDERS},
    "full_preactivation, pooling": _preresnet("full_preactivation", shortcut="pooling"),
    "densenet, dropout": DenseNetArchitecture(
        block_depths=(3, 2), growth_rate=4, stem_width=6, stem="cifar", dropout=0.2
    ),
    "highway, alternating": HighwayArchitecture(
        stage_depths=(4, 3), stage_widths=(6, 8), receptive_fields=(3, 1), head_width=7, dropout=0.2
    ),
}
FIXED: dict[str, Architecture] = {
    "plain": ResNetArchitecture(block="basic", stage_depths=(2, 1), width=8, stem="cifar", shortcut="none"),
    "vgg": VGGArchitecture(stage_depths=(1, 2), stage_widths=(4, 6), hidden_width=16),
    "vgg, batch norm": VGGArchitecture(stage_depths=(1, 2), stage_widths=(4, 6), hidden_width=16, batch_norm=True),
}


def _spec(architecture: Architecture, survival: float = 1.0, schedule: SurvivalSchedule = "linear") -> ModelSpec:
    return ModelSpec(
        name="small",
        architecture=architecture,
        classes=5,
        image_size=32,
        resize=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        survival=survival,
        survival_schedule=schedule,
    )


def _trained(spec: ModelSpec) -> nn.Module:
    """A network whose batch norms, biases and gates do something, as after training."""
    model = build_from_spec(spec, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return model


def _logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(IMAGES)


def _assert_same(answer: Tensor, expected: Tensor) -> None:
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("schedule", ["linear", "uniform"])
@pytest.mark.parametrize("survival", [0.1, 0.5])
@pytest.mark.parametrize("kind", DROPPABLE)
def test_folding_keeps_the_answers(kind: str, survival: float, schedule: SurvivalSchedule) -> None:
    model = _trained(_spec(DROPPABLE[kind], survival, schedule))
    expected = _logits(model)

    folded = resx.fold(model)

    _assert_same(_logits(folded), expected)
    assert list(folded.state_dict()) == list(model.state_dict())
    assert {block.survival for block in folded.blocks()} == {1.0}
    _assert_same(_logits(model), expected)  # the source is as it was


@pytest.mark.parametrize("kind", DROPPABLE)
def test_folding_changes_the_weights_and_folding_again_does_not(kind: str) -> None:
    model = _trained(_spec(DROPPABLE[kind], 0.5))

    once = resx.fold(model)
    twice = resx.fold(once)

    before = model.state_dict()
    assert any(not torch.equal(before[name], tensor) for name, tensor in once.state_dict().items())
    assert all(torch.equal(once.state_dict()[name], tensor) for name, tensor in twice.state_dict().items())
    assert torch.equal(_logits(once), _logits(twice))


def test_a_folded_highway_network_carries_with_the_inverse_of_its_survival() -> None:
    folded = resx.fold(_trained(_spec(DROPPABLE["highway"], 0.5, "uniform")))

    assert [block.carry for block in folded.blocks()] == [2.0] * 5


def test_a_highway_layer_alone_is_refused() -> None:
    layer = HighwayLayer(4, gate_bias=-1.0)
    layer.survival = 0.5

    with pytest.raises(ExportError, match="fold the whole network"):
        resx.fold(nn.Sequential(layer))


def test_tied_highway_weights_are_refused() -> None:
    model = _trained(_spec(DROPPABLE["highway"], 0.5))
    first, second, *_ = model.blocks()
    second.gate.weight = first.gate.weight

    with pytest.raises(ExportError, match="untie them"):
        resx.fold(model)


_EXPORTED_FAST = (
    "basic",
    "resnext, grouped",
    "full_preactivation",
    "bn_after_addition",
    "relu_before_addition",
    "densenet, cifar",
    "highway",
    "pooling",
    "full_preactivation, padding",
    "densenet, dropout",
    "highway, alternating",
)


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(
    "kind", [kind if kind in _EXPORTED_FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in DROPPABLE]
)
def test_the_exported_file_has_the_operators_of_constant_depth_and_the_answers_of_the_source(
    kind: str, tmp_path: Path
) -> None:
    spec = _spec(DROPPABLE[kind], 0.5)
    model = _trained(spec)

    written = write_onnx(resx.fold(model), spec, tmp_path / "m.onnx", precision="fp32", input_type="float32")
    constant = write_onnx(
        _trained(_spec(DROPPABLE[kind])).eval(), spec, tmp_path / "c.onnx", precision="fp32", input_type="float32"
    )

    assert _operators(written) == _operators(constant)
    _assert_file_answers(tmp_path / "m.onnx", model)


@pytest.mark.parametrize("kind", FIXED)
def test_families_without_shortcuts_export_too(kind: str, tmp_path: Path) -> None:
    spec = _spec(FIXED[kind])
    model = _trained(spec)

    write_onnx(resx.fold(model), spec, tmp_path / "m.onnx", precision="fp32", input_type="float32")

    _assert_file_answers(tmp_path / "m.onnx", model)


def _assert_file_answers(path: Path, model: nn.Module) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = _logits(model).numpy()

    (answer,) = session.run(None, {"image": IMAGES.numpy()})

    assert np.abs(answer - expected).max() <= 1e-4 * np.abs(expected).max()
