from __future__ import annotations

import numpy as np
import torch

from resx.data.photographs import photograph_crops
from resx.training import evaluation
from resx.training.batch_norms import fit_batch_norms
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant

IMAGES = photograph_crops(4, 32, seed=1)


def test_fitting_keeps_the_momentum_and_gives_activations_of_unit_size() -> None:
    spec = variant("resnet110").spec
    model = build_from_spec(spec, seed=0).eval()
    before = np.abs(evaluation.logits(model, spec, IMAGES).numpy()).max()
    fit_batch_norms(model, spec, [IMAGES])
    after = np.abs(evaluation.logits(model, spec, IMAGES).numpy()).max()
    assert before > 1e3
    assert after < 100
    assert {norm.momentum for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d)} == {0.1}


def test_the_statistics_are_the_mean_over_the_batches_whatever_was_there_before() -> None:
    spec = variant("resnet20").spec
    first, second = (build_from_spec(spec, seed=0) for _ in range(2))
    fit_batch_norms(second, spec, [IMAGES[::-1].copy()])
    for model in (first, second):
        fit_batch_norms(model, spec, [IMAGES[:2], IMAGES[2:]])
    norms = [model.get_submodule("bn1") for model in (first, second)]
    assert torch.equal(norms[0].running_mean, norms[1].running_mean)  # type: ignore[arg-type]
    x = first.get_submodule("conv1")(evaluation.normalize(IMAGES, spec, torch.device("cpu")))
    torch.testing.assert_close(norms[0].running_mean, x.mean((0, 2, 3)))
