"""What a step does with the weights of a block that stochastic depth skipped."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.data.dataset import DataSet
from resx.training.batches import batches_of, seed_epoch, steps_per_epoch
from resx.training.config import TrainingConfig, learning_rate_at
from resx.training.evaluation import normaliser
from resx.training.loop import TrainingRun, train
from resx.training.processes import Processes
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec


class Torch7Sgd:
    """optim.sgd as its documentation describes it: one vector of all weights, one of all gradients.

    A skipped block's gradients are zeros there: the vector of gradients is filled with them before each step.
    """

    def __init__(self, size: int, config: TrainingConfig) -> None:
        self.velocity = torch.zeros(size)
        self.is_first = True
        self.config = config

    def step(self, weights: Tensor, gradient: Tensor, learning_rate: float) -> Tensor:
        """Return the new weights; dampening is 0."""
        momentum = self.config.momentum
        gradient = gradient + self.config.weight_decay * weights
        self.velocity = gradient.clone() if self.is_first else momentum * self.velocity + gradient
        self.is_first = False
        direction = gradient + momentum * self.velocity if self.config.nesterov else self.velocity
        return weights - learning_rate * direction


def _vector(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _trained_by_torch7(spec: ModelSpec, data: DataSet, config: TrainingConfig) -> Tensor:
    model = build_from_spec(spec, seed=config.seed).train()
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    sgd, normalise = Torch7Sgd(sum(sizes), config), normaliser(spec, torch.device("cpu"))
    steps = steps_per_epoch(len(data.train), config.batch_size)
    for epoch in range(config.epochs):
        random = seed_epoch(config.seed, epoch)
        for batch in batches_of(data.train, config, Processes(), epoch, random):
            loss = F.cross_entropy(model(normalise(batch.images)), batch.targets)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            gradient = torch.cat([one.flatten() for one in gradients])
            moved = sgd.step(_vector(model), gradient, learning_rate_at(config, batch.step, steps))
            with torch.no_grad():
                for parameter, part in zip(parameters, moved.split(sizes), strict=True):
                    parameter.copy_(part.view_as(parameter))
    return _vector(model)


@pytest.mark.parametrize("nesterov", [True, False])
def test_blocks_that_move_are_trained_as_by_torch7s_sgd(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path, nesterov: bool
) -> None:
    strong = config.model_copy(update={"nesterov": nesterov, "weight_decay": 0.02, "epochs": 2})
    expected = _trained_by_torch7(small_spec, small_data, strong)
    reached = {}
    for choice in ("rest", "move"):
        run = strong.model_copy(update={"skipped_blocks": choice})
        reached[choice] = _vector(
            train(TrainingRun(spec=small_spec, data=small_data, config=run, folder=tmp_path / choice))
        )

    torch.testing.assert_close(reached["move"], expected, rtol=1e-3, atol=1e-5)
    assert (reached["rest"] - expected).abs().max() > 1e-2


def test_without_skipped_blocks_both_are_the_same_run(
    small_spec: ModelSpec, small_data: DataSet, config: TrainingConfig, tmp_path: Path
) -> None:
    constant, once = small_spec.with_changes(survival=1.0), config.model_copy(update={"epochs": 1})
    rest, move = (
        _vector(train(TrainingRun(
            spec=constant, data=small_data, config=once.model_copy(update={"skipped_blocks": choice}),
            folder=tmp_path / choice,
        )))
        for choice in ("rest", "move")
    )  # fmt: skip

    assert torch.equal(rest, move)


def test_an_earlier_configuration_lets_skipped_blocks_rest(config: TrainingConfig) -> None:
    fields = config.model_dump()
    del fields["skipped_blocks"]

    assert TrainingConfig.model_validate(fields).skipped_blocks == "rest"
