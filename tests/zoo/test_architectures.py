"""Architectures that can be built, and the refusal of all others."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from resx.errors import UsageError
from resx.zoo.architectures import (
    Architecture,
    HighwayArchitecture,
    ResNetArchitecture,
)
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import VARIANTS
from resx.zoo.spec import ModelSpec
from tests.support.small_networks import small_resnext


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_resnext(cardinality=3), r"cardinality=3: does not divide the 16 channels"),
        (lambda: ResNetArchitecture(block="basic", stage_depths=(1,), cardinality=2), r"cardinality=2: a basic block"),
        (lambda: small_resnext(shortcut="none"), r"shortcut=none: the plain networks have basic blocks"),
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
