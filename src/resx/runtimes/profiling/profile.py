"""A model's profile: the time of each layer and block, its arithmetic and traffic, and its share of the peak."""

from __future__ import annotations

import json
from typing import Literal

from resx.card.runtime import PrecisionHint, RuntimeName
from resx.runtimes.profiling.counters import ComputedIn
from resx.values import FrozenModel


class Work(FrozenModel):
    """What a part of a network does in one run, and how long it takes."""

    time_us: float
    """By the runtime's counters: the mean over the faster half of the runs."""
    macs: int
    """Multiply-adds of convolutions and matrix products; 1 MAC is 2 FLOPs."""
    bytes_read: int
    """Of activations."""
    bytes_weights: int
    bytes_written: int
    peak_share: float | None
    """Arithmetic a second, over what a matrix product reaches in the same precision; None where nothing multiplies."""

    @property
    def traffic(self) -> int:
        """All bytes."""
        return self.bytes_read + self.bytes_weights + self.bytes_written

    @property
    def gflops(self) -> float:
        """1e9 FLOPs a second."""
        return 2e-3 * self.macs / self.time_us if self.time_us else 0.0


class Layer(Work):
    """A node of the file, with what the runtime fused into it or inserted before it."""

    name: str
    """Empty: what could not be attributed."""
    operator: str
    block: str
    kernels: tuple[str, ...]
    """What the runtime ran for it."""
    computed_in: ComputedIn


class Block(Work):
    """The layers of one block of the network."""

    name: str
    num_layers: int


class Peak(FrozenModel):
    """What this machine reaches at most, in this runtime with these threads."""

    computed_in: ComputedIn
    gflops: float
    measured_by: str


class Bandwidth(FrozenModel):
    """What this machine moves at most, read and written, in this runtime with these threads."""

    gb_per_s: float
    measured_by: str


class Profile(FrozenModel):
    """Where the time of one run goes."""

    schema_version: Literal[1] = 1
    subject: str
    """What was profiled, as it was named; with the version for a published model."""
    runtime: RuntimeName
    runtime_version: str
    precision_hint: PrecisionHint | None
    """Precision that OpenVINO was set to; None: the file's."""
    processor: str
    instruction_set: str
    threads: int
    batch: int
    num_runs: int
    run_ms: float
    """Median of a run, counters off."""
    best_ms: float
    """The fastest run, counters off; shares of the peak are of this one, as the peak is the fastest product."""
    images_per_s: float
    total: Work
    """What the layers do together, in the fastest run."""
    counted_us: float
    """The sum of the layers' times."""
    unattributed_us: float
    peaks: tuple[Peak, ...]
    bandwidth: Bandwidth
    layers: tuple[Layer, ...]
    """Layers in the order of the file."""
    blocks: tuple[Block, ...]
    """In the order of the file."""
    notes: tuple[str, ...]


def schema_text() -> str:
    """Return the JSON schema (draft 2020-12) of a profile, as docs/profile.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Profile.model_json_schema()
    return json.dumps(schema, indent=2) + "\n"
