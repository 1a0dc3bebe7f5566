"""Architectures by depth, cardinality and growth rate, as in the papers. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from resx.errors import UsageError
from resx.zoo.architectures import (
    BlockVariant,
    DenseNetArchitecture,
    HighwayArchitecture,
    PreResNetArchitecture,
    ResNetArchitecture,
    VGGArchitecture,
)

BlockKind: TypeAlias = Literal["basic", "bottleneck"]

# He et al. 2015, table 1; 200 is of He et al. 2016.
_IMAGENET: dict[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
# Simonyan and Zisserman 2014, table 1, columns A, B, D and E.
_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
# 19 layers: the authors' network for CIFAR-10 (github.com/flukeskywalker/highway-networks). 32 layers: Srivastava et
# al. 2015, section 3.3.1, says alternating 3x3 and 1x1 and about 1.25 M parameters; widths and head are this project's.
_HIGHWAY = {
    19: HighwayArchitecture(stage_depths=(5, 6, 6), stage_widths=(32, 80, 128), head_width=100, dropout=0.2),
    32: HighwayArchitecture(
        stage_depths=(10, 10, 10),
        stage_widths=(30, 64, 96),
        receptive_fields=(3, 1),
        head_width=100,
        dropout=0.2,
    ),
}


def resnet(depth: int) -> ResNetArchitecture:
    """Return the ImageNet ResNet with 18, 34, 50, 101, 152 or 200 layers (He et al. 2015, table 1).

    Raises:
        UsageError: the family has no such depth. This holds for all functions of this module.
    """
    block, stages = _imagenet("ResNet", depth)
    return ResNetArchitecture(block=block, stage_depths=stages)


def resnet_cifar(depth: int) -> ResNetArchitecture:
    """Return the CIFAR ResNet with 6n + 2 layers (He et al. 2015, section 4.2)."""
    stages = _three_stages("a CIFAR ResNet", depth, layers_per_n=6, others=2)
    return ResNetArchitecture(block="basic", stage_depths=stages, width=16, stem="cifar", shortcut="padding")


def plain(depth: int) -> ResNetArchitecture:
    """Return the ImageNet network with 18 or 34 layers and no shortcuts (He et al. 2015, table 1)."""
    if depth not in (18, 34):
        raise UsageError(f"depth={depth}: the plain networks have 18 or 34 layers; give one of them")
    return ResNetArchitecture(block="basic", stage_depths=_IMAGENET[depth][1], shortcut="none")


def plain_cifar(depth: int) -> ResNetArchitecture:
    """Return the CIFAR network with 6n + 2 layers and no shortcuts (He et al. 2015, section 4.2)."""
    stages = _three_stages("a plain CIFAR network", depth, layers_per_n=6, others=2)
    return ResNetArchitecture(block="basic", stage_depths=stages, width=16, stem="cifar", shortcut="none")


def wide_resnet(depth: int, *, factor: int) -> ResNetArchitecture:
    """Return an ImageNet ResNet with `factor` times the channels in the bottlenecks' 3x3 convolutions."""
    block, stages = _imagenet("wide ResNet", depth)
    return ResNetArchitecture(block=block, stage_depths=stages, inner_width=64 * factor)


def resnext(depth: int, *, cardinality: int, group_width: int) -> ResNetArchitecture:
    """Return an ImageNet ResNeXt with `cardinality` paths of `group_width` channels in the first stage."""
    block, stages = _imagenet("ResNeXt", depth)
    return ResNetArchitecture(
        block=block, stage_depths=stages, cardinality=cardinality, inner_width=cardinality * group_width
    )


def resnext_cifar(depth: int, *, cardinality: int, group_width: int) -> ResNetArchitecture:
    """Return the CIFAR ResNeXt with 9n + 2 layers (Xie et al. 2016, section 5.3)."""
    stages = _three_stages("a CIFAR ResNeXt", depth, layers_per_n=9, others=2)
    return ResNetArchitecture(
        block="bottleneck",
        stage_depths=stages,
        stem="cifar",
        cardinality=cardinality,
        inner_width=cardinality * group_width,
    )


def preresnet(depth: int, *, variant: BlockVariant = "full_preactivation") -> PreResNetArchitecture:
    """Return the ImageNet pre-activation ResNet with `depth` layers (He et al. 2016)."""
    block, stages = _imagenet("pre-activation ResNet", depth)
    return PreResNetArchitecture(block=block, stage_depths=stages, variant=variant)


def preresnet_cifar(
    depth: int, *, block: BlockKind, variant: BlockVariant = "full_preactivation"
) -> PreResNetArchitecture:
    """Return the CIFAR pre-activation ResNet with 6n + 2 layers in basic blocks, or 9n + 2 in bottlenecks.

    As in the appendix of He et al. 2016, bottlenecks that change the shape have projections; basic blocks have
    option A.
    """
    is_basic = block == "basic"
    stages = _three_stages(f"a CIFAR ResNet of {block} blocks", depth, layers_per_n=6 if is_basic else 9, others=2)
    return PreResNetArchitecture(
        block=block,
        stage_depths=stages,
        width=16,
        variant=variant,
        stem="cifar",
        shortcut="padding" if is_basic else "projection",
    )


def densenet_cifar(depth: int, *, growth_rate: int) -> DenseNetArchitecture:
    """Return the CIFAR DenseNet with 3n + 4 layers, no bottleneck or compression (Huang et al. 2017, section 4.2)."""
    stages = _three_stages("a CIFAR DenseNet", depth, layers_per_n=3, others=4)
    return DenseNetArchitecture(
        block_depths=stages, growth_rate=growth_rate, stem_width=16, bottleneck=0, compression=1.0, stem="cifar"
    )


def densenet_bc_cifar(depth: int, *, growth_rate: int) -> DenseNetArchitecture:
    """Return the CIFAR DenseNet-BC with 6n + 4 layers, bottlenecks and compression 0.5 (Huang et al. 2017)."""
    stages = _three_stages("a CIFAR DenseNet-BC", depth, layers_per_n=6, others=4)
    return DenseNetArchitecture(block_depths=stages, growth_rate=growth_rate, stem_width=2 * growth_rate, stem="cifar")


def highway(depth: int) -> HighwayArchitecture:
    """Return the CIFAR highway network with 19 or 32 layers (Srivastava et al. 2015)."""
    if depth not in _HIGHWAY:
        raise UsageError(f"depth={depth}: the highway networks have 19 or 32 layers; give one of them")
    return _HIGHWAY[depth]


def vgg(depth: int, *, batch_norm: bool) -> VGGArchitecture:
    """Return the VGG with 11, 13, 16 or 19 layers (Simonyan and Zisserman 2014, table 1)."""
    if depth not in _VGG:
        raise UsageError(f"depth={depth}: VGG has {_listed(_VGG)} layers; give one of them")
    return VGGArchitecture(stage_depths=_VGG[depth], stage_widths=(64, 128, 256, 512, 512), batch_norm=batch_norm)


def _imagenet(family: str, depth: int) -> tuple[BlockKind, tuple[int, ...]]:
    if depth not in _IMAGENET:
        raise UsageError(f"depth={depth}: {family} has {_listed(_IMAGENET)} layers; give one of them")
    return _IMAGENET[depth]


def _three_stages(family: str, depth: int, *, layers_per_n: int, others: int) -> tuple[int, int, int]:
    """Return n layers or blocks for each of three stages, where depth = layers_per_n * n + others."""
    n, rest = divmod(depth - others, layers_per_n)
    if n < 1 or rest:
        below = max(n, 1) * layers_per_n + others
        raise UsageError(
            f"depth={depth}: {family} has {layers_per_n}n + {others} layers; give {below} or {below + layers_per_n}"
        )
    return n, n, n


def _listed(known: Iterable[int]) -> str:
    *most, last = known
    return f"{', '.join(map(str, most))} or {last}"
