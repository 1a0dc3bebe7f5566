"""What a card says of a version whose configuration was found by measurement (`resx tune`). Needs no torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from resx.card.kinds import Precision
from resx.card.runtime import RuntimeName
from resx.values import FrozenModel

Objective: TypeAlias = Literal["balanced", "throughput", "latency"]
"""Most images per second without slowing a lone request, at any price, or the shortest lone request."""
OBJECTIVES: tuple[Objective, ...] = ("balanced", "throughput", "latency")
MOST_SLOWER = 1.2
"""Times the quickest setting's lone request: what `balanced` still accepts."""


class Setting(FrozenModel):
    """A way to serve a model, in the terms of config.pbtxt."""

    version: int
    """Version whose file is used; 0: an export made for the search."""
    runtime: RuntimeName | None = None
    """Runtime of an ONNX file or IR on the CPU; None for engines and in older cards."""
    precision: Precision | None = None
    """None in older cards, where the version says it."""
    instances: int = Field(ge=1)
    threads: int = Field(ge=0)
    """Threads of one instance; 0: the server's default."""
    spinning: bool
    """Whether idle threads busy-wait."""
    spin_us: int = Field(default=0, ge=0)
    """Longest busy-wait in us; 0: no limit."""
    max_batch: int = Field(ge=0)
    """0: the file takes one batch size alone."""
    delay_us: int = Field(ge=0)
    """Time that a request may wait for others to fill its batch."""

    @property
    def file_text(self) -> str:
        """Return whose file it is, and what computes it, in a few words."""
        computed = " ".join(filter(None, (self.runtime, self.precision)))
        if not self.version:
            return f"new {computed}"
        return f"version {self.version}" + (f" ({computed})" if computed else "")

    @property
    def threads_text(self) -> str:
        """Return instances, threads and busy-wait in a few words."""
        waits = f", busy-wait {f'{self.spin_us} us' if self.spin_us else 'without limit'}" if self.spinning else ""
        return f"{self.instances} x {self.threads or 'auto'}{waits}"


class Trial(FrozenModel):
    """A setting under load."""

    setting: Setting
    stage: Literal["threads", "batching"]
    seconds: float
    """Duration of each of the two loads."""
    images_per_s: float
    """Closed loop of `Tuning.concurrency`; with `client_elsewhere` an estimate without the client's processor time.
    Under `Tuning.slo` the highest Poisson rate that held it, and 0 if none did."""
    p50_ms: float | None
    p99_ms: float | None
    single_ms: float | None
    """Median at concurrency 1."""
    cpu_ms_per_request: float | None = None
    """Processor time of the server and its processes; None, as the next, where `server_use_missing` says why."""
    memory_bytes: int | None = None
    """Memory of the server and its processes, with all loaded models."""
    server_use_missing: str = ""
    invalid: str = ""
    """Why it does not count; empty: it does."""


class Tuning(FrozenModel):
    """How a configuration was chosen."""

    objective: Objective
    concurrency: int
    cores: int
    client_elsewhere: bool
    processor: str
    slo: str = ""
    """Objective, such as p99=15ms."""
    created: str
    """UTC, ISO 8601."""
    command: str
    before: Setting
    config_before: str
    """Text of config.pbtxt, to go back to."""
    chosen: Setting
    ratio: float | None
    """Chosen to before, of what the objective names: images per second, or the median at concurrency 1. None: the
    setting from before did not meet the objective in any pair, and the chosen one did in all: it held `slo` at no rate,
    or its lone request took over MOST_SLOWER times the quickest one's."""
    low: float | None
    high: float | None
    """95 % confidence interval over the pairs (Student's t of the logarithms)."""
    num_pairs: int
    trials: tuple[Trial, ...]
