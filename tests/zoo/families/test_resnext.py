"""The three forms of a ResNeXt block compute the same, and one is converted to another."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import resx
from resx.errors import UsageError
from resx.zoo.building import build_from_spec
from resx.zoo.families.resnext import convert_form
from tests.support.small_networks import noise_images, small_resnext, spec_of

FORMS = ("aggregated", "concatenated", "grouped")


@pytest.mark.parametrize("start", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_the_forms_agree_and_converting_back_restores_every_bit(
    start: str, target: str, lively: Callable[[nn.Module], nn.Module]
) -> None:
    model = lively(build_from_spec(spec_of(small_resnext(start), survival=0.5), seed=0))

    converted = convert_form(model, target)
    back = convert_form(converted, start)

    with torch.inference_mode():
        expected, answer = model(noise_images()), converted(noise_images())
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert list(back.state_dict()) == list(model.state_dict())
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert [block.survival for block in converted.blocks()] == [block.survival for block in model.blocks()]
    assert not converted.training


@pytest.mark.parametrize("form", FORMS)
def test_a_converted_network_has_the_names_of_one_built_in_that_form(form: str) -> None:
    converted = convert_form(build_from_spec(spec_of(small_resnext("grouped")), seed=0), form)
    built = build_from_spec(spec_of(small_resnext(form)), seed=0)

    built.load_state_dict(converted.state_dict(), strict=True)
    assert sum(p.numel() for p in converted.parameters()) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_give_the_same_gradients(form: str) -> None:
    model = build_from_spec(spec_of(small_resnext("grouped")), seed=0)
    converted = convert_form(model, form)

    model(noise_images(8)).square().sum().backward()
    converted(noise_images(8)).square().sum().backward()

    expected, answer = model.conv1.weight.grad, converted.conv1.weight.grad
    assert (answer - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_converting_leaves_the_source_alone_and_shares_nothing_with_it() -> None:
    model = build_from_spec(spec_of(small_resnext("grouped")), seed=0)
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
