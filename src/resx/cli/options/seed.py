"""The seed of whatever a command draws at random."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from resx.cli.options.grouping import rare_option
from resx.cli.options.validation import within

LARGEST_SEED = 2**63 - 1

Seed: TypeAlias = Annotated[
    int, rare_option(metavar="N", callback=within(0, LARGEST_SEED), help="Random seed, from 0 to 2^63-1.")
]
