import pytest
import torch
from torch import nn

from resx.training.optimization.lamb import Lamb


def moved(weight_decay: float, gradient: list[float], num_steps: int = 1) -> torch.Tensor:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Lamb([{"params": [parameter], "weight_decay": weight_decay}], lr=0.1)
    for _ in range(num_steps):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach() - torch.tensor([3.0, 4.0])


def test_a_step_is_as_long_as_the_rate_times_the_tensor() -> None:
    assert float(moved(0.01, [0.3, -0.2]).norm()) == pytest.approx(0.1 * 5.0, rel=1e-5)


def test_a_tensor_without_decay_takes_adams_own_step() -> None:
    # The first step of Adam is the sign of the gradient.
    assert torch.allclose(moved(0.0, [0.3, -0.2]), torch.tensor([-0.1, 0.1]), atol=1e-5)


def test_only_the_direction_of_large_gradients_counts() -> None:
    assert torch.allclose(moved(0.01, [3e4, -4e4], 3), moved(0.01, [3e6, -4e6], 3), atol=1e-6)


def test_the_steps_are_timms() -> None:
    from timm.optim import Lamb as TimmsLamb

    torch.manual_seed(0)
    ours, theirs = (nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        make([{"params": [model.weight], "weight_decay": 0.02}, {"params": [model.bias], "weight_decay": 0.0}], lr=0.05)
        for make, model in ((Lamb, ours), (TimmsLamb, theirs))
    ]
    for step in range(4):
        images = torch.randn(8, 5) * 10**step
        for optimizer, model in zip(optimizers, (ours, theirs), strict=True):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()

    assert torch.allclose(ours.weight, theirs.weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, rtol=1e-4, atol=1e-6)


def test_three_steps_are_those_of_the_algorithm() -> None:
    value, mean, square = torch.tensor([3.0, 4.0]), torch.zeros(2), torch.zeros(2)
    gradient = torch.tensor([0.3, -0.2])
    for step in (1, 2, 3):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-6) + 0.01 * value
        value = value - 0.1 * value.norm() / update.norm() * update

    assert torch.allclose(moved(0.01, [0.3, -0.2], 3), value - torch.tensor([3.0, 4.0]), atol=1e-5)
