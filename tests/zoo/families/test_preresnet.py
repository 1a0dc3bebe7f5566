"""The pre-activation units are those of the paper's figure."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import resx
from resx.zoo.families.preresnet import ORDERS, PreActivationUnit, UnitShape
from resx.zoo.families.residual_blocks import PaddingShortcut


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
