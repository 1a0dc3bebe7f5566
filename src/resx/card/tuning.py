"""What a card says of a version whose configuration was found by measurement (`resx tune`). Needs no torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from resx.values import FrozenModel

Objective: TypeAlias = Literal["throughput", "latency"]
OBJECTIVES: tuple[Objective, ...] = ("throughput", "latency")


class Setting(FrozenModel):
    """A way to serve a model, in the terms of config.pbtxt."""

    version: int
    """Whose file: versions of one model may differ in precision."""
    instances: int = Field(ge=1)
    threads: int = Field(ge=0)
    """Of one instance; 0 leaves it to the server."""
    spinning: bool
    """Threads that run out of work wait busily."""
    spin_us: int = Field(default=0, ge=0)
    """For so long at most; 0: without a bound, where they spin. Older cards' settings have no bound."""
    max_batch: int = Field(ge=0)
    """0: the file takes one batch size alone."""
    delay_us: int = Field(ge=0)
    """That a request may wait for others to fill its batch."""

    @property
    def threads_text(self) -> str:
        """Return instances, threads and spinning in a few words."""
        spins = f" spinning {f'{self.spin_us} us' if self.spin_us else 'without end'}" if self.spinning else ""
        return f"{self.instances} x {self.threads or 'auto'}{spins}"


class Trial(FrozenModel):
    """A setting under load."""

    setting: Setting
    stage: Literal["threads", "batching"]
    seconds: float
    """Of each of the two loads."""
    images_per_s: float
    """Closed loop of `Tuning.concurrency`; with `client_elsewhere` an estimate without the client's processor time.
    Under `Tuning.slo` the highest Poisson rate that held it, and 0 if none did."""
    p50_ms: float | None
    p99_ms: float | None
    single_ms: float | None
    """Median at concurrency 1."""
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
    """What had to hold, as p99=15ms."""
    created: str
    """UTC, ISO 8601."""
    command: str
    before: Setting
    config_before: str
    """Text of config.pbtxt, to go back to."""
    chosen: Setting
    ratio: float | None
    """Chosen to before, of what the objective names: images per second, or the median at concurrency 1. None: the
    setting from before held `slo` at no rate, in any pair, and the chosen one in all."""
    low: float | None
    high: float | None
    """95 % confidence interval over the pairs (Student's t of the logarithms)."""
    num_pairs: int
    trials: tuple[Trial, ...]
