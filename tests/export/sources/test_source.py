import numpy as np
import pytest
import torch

from resx.data.photographs import photograph_crops
from resx.export.sources.source import load_source
from resx.training import evaluation
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant

IMAGES = photograph_crops(4, 32, seed=1)


def test_random_weights_are_the_seeds_and_their_batch_norms_fit_images() -> None:
    first, second = (load_source("resnet20", weights="none", seed=5) for _ in range(2))
    assert first.description.weights_sha256 == second.description.weights_sha256
    built = build_from_spec(variant("resnet20").spec, seed=5)
    assert torch.equal(first.model.get_submodule("layer1.0.conv1").weight, built.get_submodule("layer1.0.conv1").weight)
    assert not torch.equal(first.model.get_submodule("layer3.0.bn1").running_var, torch.ones(64))
    assert not first.model.training
    assert "fitted to photographs" in first.description.weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet1202", "preresnet1001"])
def test_the_deepest_random_networks_stay_finite(name: str) -> None:
    source = load_source(name, weights="none", seed=0)
    assert np.isfinite(evaluation.logits(source.model, source.description.spec, IMAGES).numpy()).all()
