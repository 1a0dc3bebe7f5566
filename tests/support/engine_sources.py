"""Networks of every family, to build TensorRT engines from."""

from __future__ import annotations

import numpy as np

from resx.card.origin import Source
from resx.data.photographs import RealImages
from resx.export.sources.source import LoadedSource, weights_sha256
from resx.zoo.architectures import (
    Architecture,
    DenseNetArchitecture,
    HighwayArchitecture,
    PreResNetArchitecture,
    ResNetArchitecture,
    VGGArchitecture,
)
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec
from tests.support.tiny_models import tiny_spec

GROUPED = ResNetArchitecture(
    block="bottleneck", stage_depths=(1, 1), width=16, inner_width=16, cardinality=4, stem="cifar"
)

FAMILIES: dict[str, Architecture] = {
    "resnet": ResNetArchitecture(block="basic", stage_depths=(1, 1, 1), width=16, stem="cifar", shortcut="padding"),
    "plain": ResNetArchitecture(block="basic", stage_depths=(1, 1, 1), width=16, stem="cifar", shortcut="none"),
    "preresnet": PreResNetArchitecture(block="basic", stage_depths=(2, 2), width=16, stem="cifar"),
    "resnext": GROUPED,
    "densenet": DenseNetArchitecture(block_depths=(3, 3), growth_rate=8, stem_width=16, stem="cifar"),
    "highway": HighwayArchitecture(stage_depths=(3, 3), stage_widths=(16, 24)),
    "vgg": VGGArchitecture(stage_depths=(1, 2), stage_widths=(16, 24), hidden_width=64, batch_norm=True),
}


def spec_of(architecture: Architecture) -> ModelSpec:
    return tiny_spec(image_size=32).model_copy(update={"architecture": architecture})


def source_of(architecture: Architecture) -> LoadedSource:
    spec = spec_of(architecture)
    model = build_from_spec(spec, seed=0).eval()
    real = np.random.default_rng(1).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    return LoadedSource(
        name="tiny",
        model=model,
        description=Source(kind="variant", spec=spec, weights="random", weights_sha256=weights_sha256(model)),
        real=RealImages(images=real, origin="a test"),
    )
