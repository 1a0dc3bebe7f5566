"""What each family's paper says of it, on real small networks."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

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
from resx.zoo.families.preresnet import ORDERS
from resx.zoo.families.residual_blocks import PaddingShortcut
from resx.zoo.families.stochastic_depth import StochasticBranch
from resx.zoo.spec import ModelSpec, survival_probabilities
from tests.support.small_networks import noise_images, small_resnext, spec_of

# As the papers print them, in millions: He et al. 2015, table 6; He et al. 2016, table 4 (see the test below for
# 1001 layers); Xie et al. 2016, table 7; Huang et al. 2017, table 2; Srivastava et al. 2015, table 2.
PAPERS_MILLIONS = {
    "resnet20": "0.27", "resnet32": "0.46", "resnet44": "0.66", "resnet56": "0.85", "resnet110": "1.7",
    "resnet1202": "19.4", "preresnet110": "1.7", "preresnet164": "1.7", "resnext29_8x64d": "34.4",
    "densenet40_12": "1.0", "densenet_bc_100_12": "0.8", "densenet_bc_190_40": "25.6",
    "highway19": "2.3", "highway32": "1.25",
}  # fmt: skip


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
    "resnext": small_resnext(),
    **{v: PreResNetArchitecture(block="basic", stage_depths=(2, 2), width=8, variant=v) for v in ORDERS},
    "densenet": DenseNetArchitecture(block_depths=(2, 2), growth_rate=4, stem_width=6, stem="cifar"),
    "highway": HighwayArchitecture(stage_depths=(3, 3), stage_widths=(4, 6)),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_dropped_block_does_not_run_and_what_is_left_is_its_skipped_output(kind: str) -> None:
    model = build_from_spec(spec_of(SMALL[kind], survival=0.5), seed=0)
    for block in model.blocks():
        block.survival = 1e-12
    outputs = {}
    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: outputs.setdefault(name, output))
        for name, module in model.named_modules()
    ]

    model(noise_images()).sum().backward()

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
    block = list(build_from_spec(spec_of(SMALL[kind], survival=0.3), seed=0).eval().blocks())[-1]
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


def test_a_padding_shortcut_takes_every_second_pixel_from_the_first() -> None:
    x = torch.arange(25.0).reshape(1, 1, 5, 5)

    padded = PaddingShortcut(1, 3, stride=2)(x)

    assert padded[0, 0].tolist() == [[0, 2, 4], [10, 12, 14], [20, 22, 24]]
    assert padded.shape == (1, 3, 3, 3)
    assert not padded[0, 1:].any()


def test_the_original_variant_computes_what_the_resnet_computes(lively: Callable[[nn.Module], nn.Module]) -> None:
    resnet = lively(build_from_spec(spec_of(SMALL["resnet"]), seed=0))
    original = PreResNetArchitecture(block="basic", stage_depths=(2, 1), width=8, stem="cifar", variant="original")
    model = build_from_spec(spec_of(original), seed=1).eval()

    model.load_state_dict(resnet.state_dict(), strict=True)

    with torch.inference_mode():
        assert torch.allclose(model(noise_images()), resnet(noise_images()), rtol=1e-5, atol=1e-6)
