"""Recomputation saves a DenseNet's memory and changes nothing else."""

import pytest
import torch
from torch import Tensor

from resx.zoo.architectures import (
    DenseNetArchitecture,
)
from resx.zoo.building import build_from_spec
from tests.support.small_networks import noise_images, spec_of


def test_recomputation_changes_neither_answers_nor_gradients_nor_statistics() -> None:
    fields = {"block_depths": (3, 3), "growth_rate": 4, "stem_width": 6, "stem": "cifar"}
    kept, recomputed = (
        build_from_spec(spec_of(DenseNetArchitecture(**fields, recompute=recompute), survival=0.5), seed=0)
        for recompute in (False, True)
    )
    losses = []
    for model in (kept, recomputed):
        torch.manual_seed(1)
        loss = model(noise_images(8)).square().sum()
        loss.backward()
        losses.append(loss.item())

    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for ours, theirs in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(kept.buffers(), recomputed.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def _peak_saved(recompute: bool, depth: int) -> int:
    """Bytes that autograd keeps between forward and backward pass, each storage counted once."""
    architecture = DenseNetArchitecture(
        block_depths=(depth,), growth_rate=4, stem_width=8, stem="cifar", recompute=recompute
    )
    model = build_from_spec(spec_of(architecture), seed=0)
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)  # so that no address is used twice
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(noise_images(8))
    return sum(sizes.values())


def test_recomputation_makes_memory_grow_linearly_with_depth() -> None:
    quadratic = [_peak_saved(False, depth) for depth in (8, 16, 32)]
    linear = [_peak_saved(True, depth) for depth in (8, 16, 32)]

    assert linear[2] < quadratic[2] / 4
    assert (linear[2] - linear[1]) / (linear[1] - linear[0]) < 2.2
    assert (quadratic[2] - quadratic[1]) / (quadratic[1] - quadratic[0]) > 2.2
