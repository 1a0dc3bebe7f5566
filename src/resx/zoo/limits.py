"""How large a network may be that a file describes, or a command line; a greater number is refused as it is read.

Without bounds a spec of 300 bytes takes all memory: `width` 1,000,000,000. All of them lie far above every network that
was published (144 million weights, 600 blocks, 21,841 classes).
"""

from __future__ import annotations

from collections.abc import Sequence

from resx.errors import UsageError

MAX_STAGES = 16
MAX_BLOCKS = 2000
MAX_CHANNELS = 65_536
MAX_CLASSES = 1_000_000
MAX_IMAGE_SIZE = 4096
"""Pixels each way."""
MAX_WEIGHTS = 400_000_000
"""1.6 GB in fp32."""
MAX_PATHS = 20_000
"""Modules of a ResNeXt that is built path by path."""


def require_size(*, num_weights: float, num_blocks: int, num_paths: int = 0) -> None:
    """Check that a network can be built here.

    Args:
        num_weights: about.
        num_blocks: of all stages.
        num_paths: paths of all blocks, where each is a module.

    Raises:
        UsageError: it is too large.
    """
    if num_blocks > MAX_BLOCKS:
        raise UsageError(f"{num_blocks} blocks: a network may have {MAX_BLOCKS}; give fewer")
    if num_paths > MAX_PATHS:
        raise UsageError(f"{num_paths} paths as modules: a network may have {MAX_PATHS}; give form grouped")
    if num_weights > MAX_WEIGHTS:
        raise UsageError(
            f"about {num_weights / 1e6:,.0f} million weights: a network may have {MAX_WEIGHTS / 1e6:.0f} million; "
            "give smaller widths, or fewer blocks or classes"
        )


def residual_weights(stage_depths: Sequence[int], outer: int, inner: int, kernel_weights: float) -> float:
    """Return about how many weights the blocks of a residual network have, whose channels double with every stage.

    Args:
        stage_depths: blocks per stage.
        outer: channels of the first stage's blocks.
        inner: channels of the 3x3 convolution in a bottleneck; 0: basic blocks.
        kernel_weights: of that convolution, per product of its channels: 9, or 9 / cardinality.
    """
    per_block = 2 * outer * inner + kernel_weights * inner**2 if inner else 18 * outer**2
    projection = outer**2 / 2  # where the channels double
    return sum((depth * per_block + projection) * 4.0**stage for stage, depth in enumerate(stage_depths))


def plain_weights(stage_depths: Sequence[int], stage_widths: Sequence[int]) -> float:
    """Return about how many weights 3x3 convolutions have, one after the other, at most."""
    return sum(9.0 * depth * width**2 for depth, width in zip(stage_depths, stage_widths, strict=True))


def dense_weights(block_depths: Sequence[int], growth_rate: int, stem_width: int, bottleneck: int) -> float:
    """Return about how many weights a densely connected network has, without compression between its blocks."""
    channels, found = float(stem_width), 0.0
    for depth in block_depths:
        mean = channels + growth_rate * (depth - 1) / 2
        per_layer = mean * 9 * growth_rate
        if bottleneck:
            per_layer = bottleneck * growth_rate * (mean + 9 * growth_rate)
        found += depth * per_layer
        channels += depth * growth_rate
    return found
