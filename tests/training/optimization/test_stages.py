import pytest
import torch
from torch import nn

from resx.errors import UsageError
from resx.training.config import Recipe
from resx.training.optimization.optimizer import make_optimizer, set_learning_rate
from resx.training.optimization.stages import frozen_stages, rates_of, require_stage, stages_of
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from tests.support.small_networks import ARCHITECTURES, small_spec

NAMES = {
    "resnet": ["stem", "layer1", "layer2", "head"],
    "preresnet": ["stem", "layer1", "layer2", "head"],
    "densenet": ["stem", "denseblock1", "denseblock2", "head"],
    "highway": ["stage1", "stage2", "head"],
    "vgg": ["stage1", "stage2", "classifier", "head"],
}


def network(kind: str) -> nn.Module:
    return build_from_spec(small_spec(kind), seed=0)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_parameter_is_of_exactly_one_stage_and_the_head_is_the_last_linear_layer(kind: str) -> None:
    model = network(kind)
    stages = stages_of(model)

    of_stages = [id(parameter) for stage in stages for parameter in stage.parameters()]
    assert sorted(of_stages) == sorted(id(parameter) for parameter in model.parameters())
    (head,) = stages[-1].modules
    assert isinstance(head, nn.Linear)
    assert head.out_features == 10


@pytest.mark.parametrize("kind", NAMES)
def test_the_stages_have_the_familys_names(kind: str) -> None:
    assert [stage.name for stage in stages_of(network(kind))] == NAMES[kind]


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [("", []), ("stem", ["stem"]), ("layer1", ["stem", "layer1"]), ("all", ["stem", "layer1", "layer2"])],
)
def test_what_is_frozen_goes_up_to_the_stage(freeze: str, frozen: list[str]) -> None:
    assert [stage.name for stage in frozen_stages(stages_of(network("resnet")), freeze)] == frozen


def test_an_unknown_stage_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"--freeze layer9.*give one of stem, layer1, layer2, layer3, all"):
        require_stage(variant("resnet20").spec, "layer9")
    require_stage(variant("resnet20").spec, "layer3")


def test_each_stage_learns_at_its_share_of_the_rate() -> None:
    model = network("resnet")
    stages = stages_of(model)
    optimizer = make_optimizer(model, Recipe(), rates_of(stages, 0.5))
    set_learning_rate(optimizer, 0.8)

    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    expected = {"stem": 0.1, "layer1": 0.2, "layer2": 0.4, "head": 0.8}
    for stage in stages:
        found = [rates[id(parameter)] for parameter in stage.parameters()]
        assert found == pytest.approx([expected[stage.name]] * len(found))


def test_norms_decay_unless_the_recipe_says_otherwise() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = make_optimizer(model, Recipe(decay_norms=False, weight_decay=0.5))
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}

    assert [decays[id(parameter)] for parameter in model.parameters()] == [0.5, 0.5, 0.0, 0.0]
    assert all(isinstance(parameter, torch.Tensor) for parameter in model.parameters())
