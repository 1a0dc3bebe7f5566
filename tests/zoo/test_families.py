"""What each family's paper says of it, on real small networks."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import resx
from resx.errors import UsageError
from resx.zoo.architectures import (
    Architecture,
    DenseNetArchitecture,
    HighwayArchitecture,
    PreResNetArchitecture,
    ResNetArchitecture,
)
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import VARIANTS
from resx.zoo.families.highway import HighwayLayer
from resx.zoo.families.preresnet import ORDERS, PreActivationUnit, UnitShape
from resx.zoo.families.residual_blocks import PaddingShortcut, ResidualBlock
from resx.zoo.families.resnext import convert_form
from resx.zoo.families.stochastic_depth import StochasticBranch
from resx.zoo.spec import ModelSpec, survival_probabilities

FORMS = ("aggregated", "concatenated", "grouped")

# As the papers print them, in millions: He et al. 2015, table 6; He et al. 2016, table 4 (see the test below for
# 1001 layers); Xie et al. 2016, table 7; Huang et al. 2017, table 2; Srivastava et al. 2015, table 2.
PAPERS_MILLIONS = {
    "resnet20": "0.27", "resnet32": "0.46", "resnet44": "0.66", "resnet56": "0.85", "resnet110": "1.7",
    "resnet1202": "19.4", "preresnet110": "1.7", "preresnet164": "1.7", "resnext29_8x64d": "34.4",
    "densenet40_12": "1.0", "densenet_bc_100_12": "0.8", "densenet_bc_190_40": "25.6",
    "highway19": "2.3", "highway32": "1.25",
}  # fmt: skip


def _spec(architecture: Architecture, image_size: int = 16, survival: float = 1.0) -> ModelSpec:
    return ModelSpec(
        name="small",
        architecture=architecture,
        classes=5,
        image_size=image_size,
        resize=image_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        survival=survival,
    )


def _images(count: int = 2, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _resnext(form: str = "grouped", **changes: object) -> ResNetArchitecture:
    fields = {"block": "bottleneck", "stage_depths": (2, 2), "width": 8, "inner_width": 16, "cardinality": 4}
    return ResNetArchitecture.model_validate({**fields, "form": form, "stem": "cifar", **changes})


# --- Counts and common promises


@pytest.mark.parametrize("name", PAPERS_MILLIONS)
def test_parameters_are_those_that_the_paper_prints(name: str) -> None:
    printed = PAPERS_MILLIONS[name]
    digits = len(printed.partition(".")[2])

    assert f"{VARIANTS[name].num_parameters / 1e6:.{digits}f}" == printed


def test_the_paper_counts_the_convolutions_of_1001_layers_without_their_batch_norms() -> None:
    with torch.device("meta"):
        model = resx.build("preresnet1001")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]

    assert f"{sum(p.numel() for layer in layers for p in layer.parameters()) / 1e6:.1f}" == "10.2"


@pytest.mark.parametrize(
    ("name", "num_layers"),
    [("resnet20", 20), ("resnet1202", 1202), ("preresnet164", 164), ("preresnet1001", 1001), ("resnext29_8x64d", 29),
     ("densenet40_12", 40), ("densenet_bc_100_12", 100), ("highway19", 19), ("highway32", 32), ("vgg16", 16)],
)  # fmt: skip
def test_a_name_says_how_many_layers_there_are(name: str, num_layers: int) -> None:
    with torch.device("meta"):
        model = resx.build(name)
    layers = [
        key
        for key, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in key and not key.endswith(".gate")
    ]

    assert len(layers) == num_layers


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_network_lists_its_blocks(name: str) -> None:
    found = VARIANTS[name]
    with torch.device("meta"):
        blocks = list(build_from_spec(found.spec, seed=None).blocks())

    assert len(blocks) == found.spec.architecture.num_blocks
    assert all(isinstance(block, StochasticBranch) for block in blocks) == (not found.spec.architecture.undroppable)


SMALL: dict[str, Architecture] = {
    "resnet": ResNetArchitecture(block="basic", stage_depths=(2, 1), width=8, stem="cifar"),
    "resnext": _resnext(),
    **{v: PreResNetArchitecture(block="basic", stage_depths=(2, 2), width=8, variant=v) for v in ORDERS},
    "densenet": DenseNetArchitecture(block_depths=(2, 2), growth_rate=4, stem_width=6, stem="cifar"),
    "highway": HighwayArchitecture(stage_depths=(3, 3), stage_widths=(4, 6)),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_dropped_block_does_not_run_and_what_is_left_is_its_skipped_output(kind: str) -> None:
    model = build_from_spec(_spec(SMALL[kind], survival=0.5), seed=0)
    for block in model.blocks():
        block.survival = 1e-12
    outputs = {}
    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: outputs.setdefault(name, output))
        for name, module in model.named_modules()
    ]

    model(_images()).sum().backward()

    for hook in hooks:
        hook.remove()
    for name, block in model.named_modules():
        if isinstance(block, StochasticBranch):
            end = block.gate if isinstance(block, HighwayLayer) else block.branch_end()
            assert all(parameter.grad is None for parameter in end.parameters())
            assert name in outputs


@pytest.mark.parametrize(
    "kind", ["relu_before_addition", "relu_only_preactivation", "full_preactivation", "densenet", "highway"]
)
def test_evaluation_is_the_expectation_over_training_where_nothing_follows_the_addition(kind: str) -> None:
    block = list(build_from_spec(_spec(SMALL[kind], survival=0.3), seed=0).eval().blocks())[-1]
    first = next(module for module in block.modules() if isinstance(module, nn.Conv2d))
    x = torch.relu(torch.randn(2, first.in_channels, 8, 8, generator=torch.Generator().manual_seed(0)))

    with torch.no_grad():
        evaluated = block(x)
        skipped = block.skipped(x)
        block.survival = 1.0
        kept = block.joined(x)

    assert not torch.allclose(kept, skipped)
    assert torch.allclose(evaluated, 0.3 * kept + 0.7 * skipped, rtol=1e-4, atol=1e-5)


def test_the_uniform_schedule_gives_every_block_the_same_probability() -> None:
    spec = VARIANTS["highway19"].spec.with_changes(survival=0.7, survival_schedule="uniform")

    assert {block.survival for block in build_from_spec(spec, seed=0).blocks()} == {0.7}
    assert survival_probabilities(3, 0.7, "uniform") == [0.7] * 3


def test_a_spec_survives_json_with_its_architecture() -> None:
    for found in VARIANTS.values():
        assert ModelSpec.model_validate_json(found.spec.model_dump_json()) == found.spec


# --- Plain networks


def test_a_plain_network_is_the_resnet_without_its_shortcuts() -> None:
    plain, resnet = resx.build("plain20", seed=0).eval(), resx.build("resnet20", seed=0).eval()
    plain.load_state_dict(resnet.state_dict(), strict=True)
    x = torch.relu(torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)))
    ours, theirs = next(plain.blocks()), next(resnet.blocks())

    assert torch.equal(ours(x), torch.relu(theirs.branch(x)))
    assert not torch.allclose(ours(x), theirs(x))


@pytest.mark.parametrize("name", ["plain20", "vgg16"])
def test_networks_without_shortcuts_refuse_stochastic_depth(name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name}: survival=0\.5: .* no shortcut .*; give 1$"):
        resx.build(name, survival=0.5)


# --- ResNeXt's three forms


@pytest.mark.parametrize("start", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_the_forms_agree_and_converting_back_restores_every_bit(
    start: str, target: str, lively: Callable[[nn.Module], nn.Module]
) -> None:
    model = lively(build_from_spec(_spec(_resnext(start), survival=0.5), seed=0))

    converted = convert_form(model, target)
    back = convert_form(converted, start)

    with torch.inference_mode():
        expected, answer = model(_images()), converted(_images())
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert list(back.state_dict()) == list(model.state_dict())
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert [block.survival for block in converted.blocks()] == [block.survival for block in model.blocks()]
    assert not converted.training


@pytest.mark.parametrize("form", FORMS)
def test_a_converted_network_has_the_names_of_one_built_in_that_form(form: str) -> None:
    converted = convert_form(build_from_spec(_spec(_resnext("grouped")), seed=0), form)
    built = build_from_spec(_spec(_resnext(form)), seed=0)

    built.load_state_dict(converted.state_dict(), strict=True)
    assert sum(p.numel() for p in converted.parameters()) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_give_the_same_gradients(form: str) -> None:
    model = build_from_spec(_spec(_resnext("grouped")), seed=0)
    converted = convert_form(model, form)

    model(_images(8)).square().sum().backward()
    converted(_images(8)).square().sum().backward()

    expected, answer = model.conv1.weight.grad, converted.conv1.weight.grad
    assert (answer - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_converting_leaves_the_source_alone_and_shares_nothing_with_it() -> None:
    model = build_from_spec(_spec(_resnext("grouped")), seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with torch.no_grad():
        for parameter in convert_form(model, "concatenated").parameters():
            parameter.zero_()

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_resnext50_converts_to_32_paths() -> None:
    with torch.device("meta"):
        model = resx.build("resnext50_32x4d")

    assert {len(block.paths) for block in convert_form(model, "aggregated").blocks()} == {32}


def test_converting_a_network_without_bottlenecks_is_refused() -> None:
    with pytest.raises(UsageError, match="no bottlenecks"):
        convert_form(resx.build("resnet20", seed=0), "aggregated")


# --- Shortcuts


def test_a_padding_shortcut_takes_every_second_pixel_from_the_first() -> None:
    x = torch.arange(25.0).reshape(1, 1, 5, 5)

    padded = PaddingShortcut(1, 3, stride=2)(x)

    assert padded[0, 0].tolist() == [[0, 2, 4], [10, 12, 14], [20, 22, 24]]
    assert padded.shape == (1, 3, 3, 3)
    assert not padded[0, 1:].any()


# --- Pre-activation's five units


def _by_hand(unit: PreActivationUnit, variant: str, x: Tensor) -> Tensor:
    """Figure 4 of He et al. 2016, read off and typed in, for a unit of two layers and an identity shortcut."""
    conv1, conv2, bn1, bn2, relu = unit.conv1, unit.conv2, unit.bn1, unit.bn2, torch.relu
    if variant == "original":
        return relu(x + bn2(conv2(relu(bn1(conv1(x))))))
    if variant == "bn_after_addition":
        return relu(bn2(x + conv2(relu(bn1(conv1(x))))))
    if variant == "relu_before_addition":
        return x + relu(bn2(conv2(relu(bn1(conv1(x))))))
    if variant == "relu_only_preactivation":
        return x + bn2(conv2(relu(bn1(conv1(relu(x))))))
    assert variant == "full_preactivation"
    return x + conv2(relu(bn2(conv1(relu(bn1(x))))))


@pytest.mark.parametrize("variant", ORDERS)
def test_a_unit_is_the_one_in_the_figure(variant: str, lively: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    shape = UnitShape(in_channels=6, width=6, stride=1, is_bottleneck=False, is_first=False)
    unit = lively(PreActivationUnit(shape, ORDERS[variant]))
    x = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    before = x.clone()

    with torch.no_grad():
        assert torch.allclose(unit(x), _by_hand(unit, variant, x), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, before)


def test_the_first_unit_leaves_out_what_the_stem_has_done() -> None:
    first, second = list(resx.build("preresnet164", seed=0).blocks())[:2]

    assert not hasattr(first, "bn1")
    assert hasattr(second, "bn1")


def test_a_unit_that_changes_the_shape_shares_its_preactivation() -> None:
    basic = list(resx.build("preresnet110", seed=0).blocks())[18]
    bottleneck = list(resx.build("preresnet164", seed=0).blocks())[18]

    assert basic.entry_steps == bottleneck.entry_steps == ["bn1", "relu"]
    assert basic.branch_steps == ["conv1", "bn2", "relu", "conv2"]
    assert isinstance(basic.downsample, PaddingShortcut)
    assert [type(layer) for layer in bottleneck.downsample] == [nn.Conv2d]


def test_the_original_variant_computes_what_the_resnet_computes(lively: Callable[[nn.Module], nn.Module]) -> None:
    resnet = lively(build_from_spec(_spec(SMALL["resnet"]), seed=0))
    original = PreResNetArchitecture(block="basic", stage_depths=(2, 1), width=8, stem="cifar", variant="original")
    model = build_from_spec(_spec(original), seed=1).eval()

    model.load_state_dict(resnet.state_dict(), strict=True)

    with torch.inference_mode():
        assert torch.allclose(model(_images()), resnet(_images()), rtol=1e-5, atol=1e-6)


# --- DenseNet's recomputation


def test_recomputation_changes_neither_answers_nor_gradients_nor_statistics() -> None:
    fields = {"block_depths": (3, 3), "growth_rate": 4, "stem_width": 6, "stem": "cifar"}
    kept, recomputed = (
        build_from_spec(_spec(DenseNetArchitecture(**fields, recompute=recompute), survival=0.5), seed=0)
        for recompute in (False, True)
    )
    losses = []
    for model in (kept, recomputed):
        torch.manual_seed(1)
        loss = model(_images(8)).square().sum()
        loss.backward()
        losses.append(loss.item())

    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for ours, theirs in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(kept.buffers(), recomputed.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def _peak_saved(recompute: bool, depth: int) -> int:
    """Bytes that autograd keeps between forward and backward pass, each storage counted once."""
    architecture = DenseNetArchitecture(
        block_depths=(depth,), growth_rate=4, stem_width=8, stem="cifar", recompute=recompute
    )
    model = build_from_spec(_spec(architecture), seed=0)
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)  # so that no address is used twice
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(_images(8))
    return sum(sizes.values())


def test_recomputation_makes_memory_grow_linearly_with_depth() -> None:
    quadratic = [_peak_saved(False, depth) for depth in (8, 16, 32)]
    linear = [_peak_saved(True, depth) for depth in (8, 16, 32)]

    assert linear[2] < quadratic[2] / 4
    assert (linear[2] - linear[1]) / (linear[1] - linear[0]) < 2.2
    assert (quadratic[2] - quadratic[1]) / (quadratic[1] - quadratic[0]) > 2.2


# --- Highway


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


# --- What cannot be built


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _resnext(cardinality=3), r"cardinality=3: does not divide the 16 channels"),
        (lambda: ResNetArchitecture(block="basic", stage_depths=(1,), cardinality=2), r"cardinality=2: a basic block"),
        (lambda: _resnext(shortcut="none"), r"shortcut=none: the plain networks have basic blocks"),
        (
            lambda: HighwayArchitecture(stage_depths=(2, 2), stage_widths=(4,)),
            r"stage_widths=\(4,\): give one per stage",
        ),
        (lambda: HighwayArchitecture(stage_depths=(1,), stage_widths=(4,)), r"no highway layer"),
    ],
)
def test_an_architecture_that_nothing_can_be_built_from_is_refused(
    make: Callable[[], Architecture], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("resnet(42)", "depth=42: ResNet has 18, 34, 50, 101, 152 or 200 layers; give one of them"),
        ("resnet_cifar(21)", r"depth=21: a CIFAR ResNet has 6n \+ 2 layers; give 20 or 26"),
        ("resnet_cifar(2)", "give 8 or 14"),
        ("plain(50)", "depth=50: the plain networks have 18 or 34"),
        ("preresnet_cifar(110, block='bottleneck')", None),
        ("preresnet_cifar(112, block='bottleneck')", r"bottleneck blocks has 9n \+ 2 layers; give 110 or 119"),
        ("resnext_cifar(30, cardinality=8, group_width=64)", "give 29 or 38"),
        ("densenet_cifar(41, growth_rate=12)", "give 40 or 43"),
        ("densenet_bc_cifar(99, growth_rate=12)", "give 94 or 100"),
        ("highway(20)", "have 19 or 32 layers"),
        ("vgg(15, batch_norm=True)", "depth=15: VGG has 11, 13, 16 or 19 layers"),
    ],
)
def test_a_depth_that_the_family_does_not_have_is_refused_with_those_it_has(call: str, message: str | None) -> None:
    from resx.zoo import depths

    if message is None:
        eval(call, vars(depths))
        return
    with pytest.raises(UsageError, match=message) as caught:
        eval(call, vars(depths))
    assert "\n" not in str(caught.value)


SMALLEST = ("densenet121", "densenet40_12", "highway19", "vgg16_bn")


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_image_is_the_smallest_that_works(name: str) -> None:
    spec = VARIANTS[name].spec
    smallest = spec.architecture.smallest_image
    with torch.device("meta"):
        model = build_from_spec(spec, seed=None).eval()

        assert model(torch.empty(1, 3, smallest, smallest)).shape == (1, spec.classes)
        with pytest.raises(RuntimeError, match=r"too small|non-zero|greater than zero"):
            model(torch.empty(1, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize("name", SMALLEST)
def test_an_image_that_shrinks_to_nothing_is_refused(name: str) -> None:
    spec = VARIANTS[name].spec
    small = {"image_size": spec.architecture.smallest_image - 1, "resize": 32}

    with pytest.raises(UsageError, match=r"too small: the minimum is .* pixels"):
        ModelSpec.model_validate({**spec.model_dump(), **small})


def test_choosing_an_architecture_needs_no_torch() -> None:
    script = "import sys, resx.zoo.depths, resx.zoo.catalog; print('torch' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "False"
