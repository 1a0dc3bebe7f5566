"""What a runtime's counters say: the nodes that it ran, and how long each took in each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

ComputedIn: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]
Feed: TypeAlias = dict[str, npt.NDArray[Any]]
"""The input's name, and what a model is run on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeNode:
    """A node of the graph that the runtime made of the file."""

    name: str
    kernel: str
    """Its operator, or the name of what computes it."""
    source_names: tuple[str, ...]
    """Nodes and tensors of the file that it is named after, the likeliest first."""
    computes: bool
    """Whether it is a convolution or a matrix product."""
    computed_in: ComputedIn
    bytes_read: int
    """Of what other nodes gave."""
    bytes_weights: int
    bytes_written: int
    users: tuple[str, ...] = ()
    """Nodes that take what it gives, by name."""
    givers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """The counters of some runs."""

    nodes: tuple[RuntimeNode, ...]
    times_us: npt.NDArray[np.float64]
    """[runs, nodes]"""

    def quieter_half(self) -> npt.NDArray[np.float64]:
        """Return each node's mean time over the faster half of the runs: others' work on the machine is no property."""
        totals = self.times_us.sum(axis=1)
        faster = np.argsort(totals, kind="stable")[: max(1, len(totals) // 2)]
        return np.asarray(self.times_us[faster].mean(axis=0), dtype=np.float64)


class Probe(Protocol):
    """A model that is open with its counters on, and what it is run on."""

    def run(self) -> None:
        """Compute once."""

    def finish(self, skipped: int) -> Counts:
        """Return the counters of all runs but the first ones, and close the model."""
