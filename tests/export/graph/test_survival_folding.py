"""Folding survival probabilities into weights."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import resx
from resx.errors import ExportError
from resx.zoo.architectures import Architecture, DenseNetArchitecture, ResNetArchitecture
from resx.zoo.building import build_from_spec
from resx.zoo.families.stochastic_depth import StochasticBranch
from resx.zoo.spec import ModelSpec

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _spec(architecture: Architecture, survival: float) -> ModelSpec:
    return ModelSpec(
        name="small",
        architecture=architecture,
        classes=5,
        image_size=16,
        resize=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        survival=survival,
    )


def _built(architecture: Architecture, survival: float, seed: int) -> nn.Module:
    """A network whose batch norms do something, as after training."""
    model = build_from_spec(_spec(architecture, survival), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def _logits(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.inference_mode():
        return model.eval()(images)


def _assert_same(answer: Tensor, expected: Tensor) -> None:
    assert (answer - expected).abs().max() <= 1e-5 * expected.abs().max()


RESNETS = st.builds(
    ResNetArchitecture,
    block=st.sampled_from(["basic", "bottleneck"]),
    stage_depths=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    width=st.sampled_from([4, 8]),
    inner_width=st.sampled_from([4, 8]),
    stem=st.sampled_from(["imagenet", "cifar"]),
    shortcut=st.sampled_from(["projection", "padding"]),
)
DENSENETS = st.builds(
    DenseNetArchitecture,
    block_depths=st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple),
    growth_rate=st.integers(2, 6),
    stem_width=st.integers(2, 8),
    bottleneck=st.integers(1, 4),
)


@settings(max_examples=40, deadline=None)
@given(architecture=st.one_of(RESNETS, DENSENETS), survival=st.floats(0.05, 1.0), seed=st.integers(0, 2**16))
def test_a_folded_network_computes_what_its_source_computes(
    architecture: Architecture, survival: float, seed: int
) -> None:
    model = _built(architecture, survival, seed)

    folded = resx.fold(model)

    _assert_same(_logits(folded), _logits(model))
    assert all(block.survival == 1.0 for block in folded.blocks())
    assert list(folded.state_dict()) == list(model.state_dict())


def test_folding_is_not_the_identity() -> None:
    model = _built(ResNetArchitecture(block="basic", stage_depths=(2, 2), width=8, stem="cifar"), 0.5, 0)
    deterministic = copy.deepcopy(model)
    for block in deterministic.blocks():
        block.survival = 1.0

    assert not torch.allclose(_logits(resx.fold(model)), _logits(deterministic), rtol=1e-2)


def test_the_source_keeps_weights_mode_and_survival() -> None:
    model = resx.build("resnet20", survival=0.5, seed=0)
    before = copy.deepcopy(model.state_dict())

    folded = resx.fold(model)

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not folded.training
    assert [block.survival for block in model.blocks()][-1] == 0.5


def test_folding_twice_is_folding_once() -> None:
    once = resx.fold(resx.build("resnet20", survival=0.5, seed=0))
    twice = resx.fold(once)

    assert all(torch.equal(once.state_dict()[name], tensor) for name, tensor in twice.state_dict().items())


class _EndsInActivation(StochasticBranch):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.end = nn.ReLU()

    def branch_end(self) -> nn.Module:
        return self.end

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expected(self.end(self.conv(x)))


class _EndsInConvolution(StochasticBranch):
    def __init__(self, end: nn.Conv2d) -> None:
        super().__init__()
        self.end = end

    def branch_end(self) -> nn.Module:
        return self.end

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expected(self.end(x))


def test_a_branch_that_ends_without_weights_is_refused_with_its_place() -> None:
    model = nn.Sequential(_EndsInActivation())
    model[0].survival = 0.5

    with pytest.raises(ExportError, match=r"^0: its branch ends in ReLU, which has no weights to fold 0\.5 into"):
        resx.fold(model)


def test_such_a_branch_is_fine_where_it_always_survives() -> None:
    model = nn.Sequential(_EndsInActivation())

    _assert_same(_logits(resx.fold(model)), _logits(model))


def test_a_batch_norm_without_parameters_is_refused() -> None:
    branch = _EndsInConvolution(nn.BatchNorm2d(3, affine=False))
    branch.survival = 0.5

    with pytest.raises(ExportError, match="BatchNorm2d, which has no weights"):
        resx.fold(branch)


def test_a_bias_is_scaled_too() -> None:
    branch = _EndsInConvolution(nn.Conv2d(3, 3, 1))
    branch.survival = 0.25

    _assert_same(_logits(resx.fold(branch)), _logits(branch))


def test_a_shared_last_layer_is_refused() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(_EndsInConvolution(shared), _EndsInConvolution(shared))
    model[0].survival = model[1].survival = 0.5

    with pytest.raises(ExportError, match="used elsewhere too"):
        resx.fold(model)


def test_a_tied_weight_is_refused() -> None:
    model = nn.Sequential(_EndsInConvolution(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].end.weight
    model[0].survival = 0.5

    with pytest.raises(ExportError, match="untie them"):
        resx.fold(model)
