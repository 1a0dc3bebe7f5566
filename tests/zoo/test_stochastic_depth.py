"""Stochastic depth as Huang et al. 2016 define it."""

import pytest
import torch

import resx
from resx.zoo.families.residual_blocks import BasicBlock
from resx.zoo.spec import survival_probabilities

X = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def _block(survival: float) -> BasicBlock:
    torch.manual_seed(0)
    block = BasicBlock(8, 8, stride=1, shortcut=None)
    block.survival = survival
    return block


def test_the_schedule_falls_in_a_straight_line_to_its_last_value() -> None:
    assert survival_probabilities(4, 0.5) == pytest.approx([0.875, 0.75, 0.625, 0.5])


@pytest.mark.parametrize("num_blocks", [1, 3, 54])
@pytest.mark.parametrize("last", [0.2, 0.5, 1.0])
def test_expected_depth_is_the_papers(num_blocks: int, last: float) -> None:
    # Sum over l of 1 - l/L (1 - p_L), in closed form; (3L - 1) / 4 for p_L = 0.5, section 3.
    expected = num_blocks - (num_blocks + 1) / 2 * (1 - last)

    assert sum(survival_probabilities(num_blocks, last)) == pytest.approx(expected)
    if last == 0.5:
        assert expected == pytest.approx((3 * num_blocks - 1) / 4)


def test_every_block_of_a_network_gets_its_place_in_the_schedule() -> None:
    model = resx.build("resnet110", survival=0.5, seed=0)

    assert [block.survival for block in model.blocks()] == survival_probabilities(54, 0.5)


def test_in_training_the_whole_batch_keeps_or_loses_the_branch() -> None:
    block = _block(0.5)
    torch.manual_seed(0)

    kept = [(block(X) != torch.relu(X)).flatten(1).any(dim=1) for _ in range(40)]

    assert {tuple(images.tolist()) for images in kept} == {(True,) * 4, (False,) * 4}


@pytest.mark.parametrize("survival", [0.2, 0.5, 0.9])
def test_a_branch_survives_as_often_as_it_should(survival: float) -> None:
    block = _block(survival)
    torch.manual_seed(0)

    draws = 4000
    share = sum(block.survives() for _ in range(draws)) / draws

    assert share == pytest.approx(survival, abs=4 * (survival * (1 - survival) / draws) ** 0.5)


def test_a_lost_branch_gets_no_gradient() -> None:
    block = _block(1e-9)
    x = X.clone().requires_grad_()

    block(x).sum().backward()

    assert x.grad is not None

    assert all(parameter.grad is None for parameter in block.parameters())


def test_a_lost_branch_leaves_its_batch_norms_statistics() -> None:
    block = _block(1e-9)

    block(X)

    assert block.bn1.num_batches_tracked == 0


def test_a_lost_branch_does_not_change_the_input_in_place() -> None:
    before = X.clone()

    _block(1e-9)(X)

    assert torch.equal(X, before)


def test_in_evaluation_the_branch_is_scaled_by_its_survival() -> None:
    block = _block(0.3).eval()

    with torch.no_grad():
        expected = torch.relu(block.shortcut(X) + 0.3 * block.branch(X))

        assert torch.allclose(block(X), expected, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(block(X), torch.relu(X + block.branch(X)))


def test_evaluation_draws_nothing() -> None:
    model = resx.build("resnet20", survival=0.5, seed=0).eval()
    before = torch.get_rng_state()

    with torch.inference_mode():
        first, second = (model(torch.ones(1, 3, 32, 32)) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_constant_depth_draws_nothing_in_training_either() -> None:
    model = resx.build("resnet20", seed=0)
    before = torch.get_rng_state()

    model(torch.ones(2, 3, 32, 32))

    assert torch.equal(torch.get_rng_state(), before)
