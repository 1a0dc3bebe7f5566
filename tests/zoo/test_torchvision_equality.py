"""The zoo computes what torchvision computes, under the same weight names."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

import resx
from resx.zoo.catalog import VARIANTS

FAST = ("resnet18", "resnet50", "densenet121")
KNOWN_TO_TORCHVISION = [name for name in VARIANTS if name in torchvision.models.list_models()]


def _marked(names: list[str]) -> list[object]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _marked(KNOWN_TO_TORCHVISION))
def test_same_weights_give_torchvisions_logits(name: str, lively: Callable[[nn.Module], nn.Module]) -> None:
    reference = lively(torchvision.models.get_model(name, weights=None))
    model = resx.build(name, seed=0).eval()
    model.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        expected, answer = reference(images), model(images)

    assert expected.std() > 0
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", KNOWN_TO_TORCHVISION)
def test_weight_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, weights=None)
        model = resx.build(name)

    def shapes(module: nn.Module) -> dict[str, torch.Size]:
        return {key: tensor.shape for key, tensor in module.state_dict().items()}

    assert shapes(model) == shapes(reference)


def test_the_list_of_torchvisions_names_is_not_empty() -> None:
    assert set(FAST) <= set(KNOWN_TO_TORCHVISION)


@pytest.mark.parametrize("name", [name for name, v in VARIANTS.items() if v.top1_percent is not None])
def test_published_accuracy_is_that_of_torchvisions_default_weights(name: str) -> None:
    entry = torchvision.models.get_model_weights(name).DEFAULT

    assert VARIANTS[name].top1_percent == entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert VARIANTS[name].num_parameters == entry.meta["num_params"]


@pytest.mark.parametrize("name", KNOWN_TO_TORCHVISION)
def test_every_name_that_torchvision_publishes_weights_for_has_its_accuracy(name: str) -> None:
    assert VARIANTS[name].top1_percent is not None
