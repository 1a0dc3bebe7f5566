"""Small networks of every kind, taken apart into their steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resx.analysis.network_steps import Step, prepare_steps, steps_of
from resx.data.dataset import DataSet, Split
from resx.data.loading import load_data
from resx.export.graph.batchnorm_fusion import fuse
from resx.training.evaluation import normalize
from resx.zoo.architectures import (
    Architecture,
    DenseNetArchitecture,
    HighwayArchitecture,
    PreResNetArchitecture,
    ResNetArchitecture,
    VGGArchitecture,
)
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec

ARCHITECTURES: dict[str, Architecture] = {
    "resnet": ResNetArchitecture(block="basic", stage_depths=(2, 3), width=8, stem="cifar", shortcut="padding"),
    "bottleneck": ResNetArchitecture(block="bottleneck", stage_depths=(2, 2), width=4, inner_width=4, stem="cifar"),
    "plain": ResNetArchitecture(block="basic", stage_depths=(2, 2), width=8, stem="cifar", shortcut="none"),
    "preresnet": PreResNetArchitecture(block="basic", stage_depths=(2, 3), width=8, stem="cifar"),
    "densenet": DenseNetArchitecture(block_depths=(3, 2), growth_rate=4, stem_width=8, stem="cifar"),
    "highway": HighwayArchitecture(stage_depths=(3, 3), stage_widths=(6, 8)),
    "vgg": VGGArchitecture(stage_depths=(2, 2), stage_widths=(8, 12), batch_norm=True, hidden_width=16),
    "resnet, pooling": ResNetArchitecture(
        block="basic", stage_depths=(2, 3), width=8, stem="cifar", shortcut="pooling"
    ),
    "preresnet, padding": PreResNetArchitecture(
        block="basic", stage_depths=(2, 3), width=8, stem="cifar", shortcut="padding"
    ),
    "preresnet, pooling": PreResNetArchitecture(
        block="basic", stage_depths=(2, 3), width=8, stem="cifar", shortcut="pooling"
    ),
    "densenet, dropout": DenseNetArchitecture(
        block_depths=(3, 2), growth_rate=4, stem_width=8, stem="cifar", dropout=0.2
    ),
    "highway, alternating": HighwayArchitecture(
        stage_depths=(3, 3), stage_widths=(6, 8), receptive_fields=(3, 1), head_width=7, dropout=0.2
    ),
}
"""Of every family, and behind them of every option that changes what a network computes."""
RESIDUAL_KINDS = [name for name, architecture in ARCHITECTURES.items() if not architecture.undroppable]
REMOVABLE_KINDS = [name for name in RESIDUAL_KINDS if ARCHITECTURES[name].removable_blocks]


def small_spec(kind: str, *, survival: float = 1.0) -> ModelSpec:
    data = load_data("digits", image_size=8)
    base = variant("resnet20").spec.with_changes(classes=10, labels=data.labels, image=data.image)
    fields = base.model_dump() | {"name": kind, "architecture": ARCHITECTURES[kind], "survival": survival}
    return ModelSpec.model_validate(fields)


def small_network(kind: str, *, survival: float = 1.0) -> tuple[nn.Module, ModelSpec]:
    """A network of random weights whose batch norms have seen the data, so that every block does something."""
    spec = small_spec(kind, survival=survival)
    data = load_data("digits", image_size=8)
    model = build_from_spec(spec.with_changes(survival=1.0), seed=0)
    with torch.no_grad():
        for _ in range(20):
            model(normalize(data.train.images[:64], spec, torch.device("cpu")))
    built = build_from_spec(spec, seed=0)
    built.load_state_dict(model.state_dict())
    return built.eval(), spec


def fast(steps: list[Step]) -> list[Step]:
    return prepare_steps(steps, lambda part: fuse(part, target="gpu"))


def few(data: DataSet, num_images: int) -> Split:
    return Split(images=data.held_out.images[:num_images], targets=data.held_out.targets[:num_images])


def taken_apart(kind: str, *, survival: float = 1.0) -> tuple[nn.Module, ModelSpec, list[Step]]:
    model, spec = small_network(kind, survival=survival)
    return model, spec, steps_of(model, spec)


def tiny_densenet(image_size: int = 16) -> ModelSpec:
    """A DenseNet-BC of two blocks on small images."""
    base = variant("densenet121").spec
    architecture = DenseNetArchitecture(
        block_depths=(2, 2), growth_rate=8, stem_width=8, stem="cifar", bottleneck=2, compression=0.5
    )
    return base.model_copy(
        update={
            "name": "tiny-densenet",
            "architecture": architecture,
            "classes": 10,
            "labels": (),
            "image_size": image_size,
            "resize": image_size,
        }
    )


def with_statistics(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give every batch norm statistics and parameters that are not those of a fresh one, as training would."""
    torch.manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.running_mean = torch.randn(norm.num_features)
            norm.running_var = torch.rand(norm.num_features) + 0.2
            with torch.no_grad():
                norm.weight.copy_(torch.randn(norm.num_features))
                norm.bias.copy_(torch.randn(norm.num_features))
    return model.eval()


def spec_of(architecture: Architecture, image_size: int = 16, survival: float = 1.0) -> ModelSpec:
    """A spec of five classes."""
    return ModelSpec(
        name="small",
        architecture=architecture,
        classes=5,
        image_size=image_size,
        resize=image_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        survival=survival,
    )


def noise_images(count: int = 2, size: int = 16) -> Tensor:
    """[count, 3, size, size], the same at every call."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def small_resnext(form: str = "grouped", **changes: object) -> ResNetArchitecture:
    """Two stages of bottlenecks with four paths; `changes` are fields of the architecture."""
    fields = {"block": "bottleneck", "stage_depths": (2, 2), "width": 8, "inner_width": 16, "cardinality": 4}
    return ResNetArchitecture.model_validate({**fields, "form": form, "stem": "cifar", **changes})


# --- Counts and common promises
