"""The result of a benchmark, as it is printed and stored. Its JSON schema is docs/bench.schema.json."""

from __future__ import annotations

import base64
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from resx._version import __version__
from resx.bench.results.gpu_sampling import GpuUse
from resx.bench.results.samples import Percentiles
from resx.bench.results.server_statistics import ServerBreakdown
from resx.bench.results.server_use import ServerUse
from resx.errors import UsageError
from resx.files.json_faults import explain_fault
from resx.files.reading import MAX_RESULT_BYTES, read_bounded
from resx.machine import cpu_quota, processor, usable_cores
from resx.serving.client.address import Address
from resx.serving.client.loopback import is_loopback, split_host
from resx.serving.embedded.backends.config_values import num_instances
from resx.serving.running.server_state import server_at
from resx.values import FrozenModel


class Answers(FrozenModel):
    """Whether the sampled answers were right."""

    checked: int
    wrong: int
    reference: str
    """Reference of the comparison, or why there is none."""
    worst: float | None
    """Largest difference from the reference, relative to the logits' scale."""
    tolerance: float


class Late(FrozenModel):
    """Requests of an open loop that left late: what the client could not do."""

    threshold_ms: float
    num_late: int
    share: float
    max_ms: float


class Stability(FrozenModel):
    """Whether the three thirds of the window agree."""

    rates_per_s: tuple[float, float, float]
    """Answers per second."""
    spread: float
    """Largest difference from their mean, relative to it."""
    stable: bool


class Client(FrozenModel):
    """CPU time of the load generator, and its limit."""

    processes: int
    cpu_ms_per_request: float | None
    cpu_share: float
    """Share of one core's time in the window."""
    ceiling_requests_per_s: float | None
    """Requests per second that the client's CPU time allows, measured on a null server; None if not measured."""


class InProcess(FrozenModel):
    """The same file, measured without a server."""

    images_per_s: float
    p50_ms: float
    """Median of one run of the batch."""
    batch_size: int
    threads: int
    instances: int
    efficiency: float
    """Images per second of the server, divided by these."""


class Second(FrozenModel):
    """A slice of the window."""

    at_s: float
    """Its end, from when the window opened."""
    answers_per_s: float
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    """99th percentile, or the largest latency with too few samples."""


class Measurement(FrozenModel):
    """One load on one model. Times are None with too few samples."""

    model: str
    version: int | None
    """None: the newest that was loaded."""
    label: str = ""
    """Name in tables if the model's name is ambiguous: `resnet50 (1)`, `resnet50@host:8000`."""
    url: str
    load: Literal["closed", "open"]
    concurrency: int
    """Requests in flight; 0 in an open loop."""
    rate_per_s: float
    """Asked for; 0 in a closed loop."""
    arrivals: Literal["poisson", "constant", ""]
    batch_size: int
    repeat: int = 1
    """Which of several repetitions."""
    window_s: float
    requests: int
    """Requests that were answered."""
    sent: int
    failed: int
    images_per_s: float
    requests_per_s: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p99_9_ms: float | None
    max_ms: float | None
    service: Percentiles
    """Latency from when a request was sent; in a closed loop the same as above."""
    errors: dict[str, int]
    client_cpu_ms_per_request: float | None
    client: Client
    late: Late | None
    """None in a closed loop."""
    answers: Answers
    contents: str
    """What the requests held."""
    stability: Stability
    server: ServerBreakdown | None
    """None if the server does not give its statistics."""
    cached_share: float | None = None
    """Share of the requests that the server's response cache answered; None if unknown."""
    in_process: InProcess | None = None
    gpus: tuple[GpuUse, ...] | None = None
    """What the server's GPUs did in the window; None: it has none, or neither its metrics nor NVML say."""
    server_use: ServerUse | None = None
    """Memory and CPU time of the server; None if unknown."""
    server_use_missing: str = ""
    """Why server_use is unknown."""
    seconds: tuple[Second, ...] = ()
    hdr: str = ""
    """The latencies in us as an HDR histogram, in its own base64 text."""
    interrupted: bool = False
    """Whether it ended before its time."""
    invalid: tuple[str, ...]
    """Why its figures must not be used; empty: they may."""
    remarks: tuple[str, ...]
    """What whoever uses them should know."""

    @property
    def title(self) -> str:
        """The load in a few words."""
        if self.load == "open":
            return f"{self.rate_per_s:g}/s {self.arrivals}"
        return f"concurrency {self.concurrency}"

    @property
    def target(self) -> str:
        """What it is called: the model, with its version where one was named, or its label."""
        return self.label or self.name

    @property
    def name(self) -> str:
        """The model, with its version where one was named."""
        return self.model if self.version is None else f"{self.model}:{self.version}"


class Environment(FrozenModel):
    """Machine and software of the measurement."""

    resx: str
    triton: str
    python: str
    machine: str
    usable_cores: int
    """Threads that it can run at the same time: its cores, or its CPU quota rounded up."""
    cpu_quota: float | None = None
    """Cores' worth of time that its control group allows the client; None: no limit."""
    governor: str = ""
    """Frequency governor of the processor; empty if unknown."""
    load_average: float = 0.0
    """Load average of the machine in the minute before."""
    server_is_local: bool
    """The client then shares its cores with the server."""
    server_kind: Literal["native", "isolated", ""] = ""
    """native: models run in the server; isolated: in Python processes. Empty: not an embedded server."""
    server_threads: str = ""
    """Instances and threads, from the model's configuration."""
    response_cache: bool = False
    packages: dict[str, str] = pydantic.Field(default_factory=dict)


class Interval(FrozenModel):
    """A mean over repetitions with its 95 % confidence interval (Student's t)."""

    mean: float
    half_width: float


class Repeated(FrozenModel):
    """One load, measured several times."""

    title: str
    target: str
    num_runs: int
    images_per_s: Interval
    p50_ms: Interval | None
    p99_ms: Interval | None


class Ratio(FrozenModel):
    """What one target is to the first, from pairs measured one right after the other."""

    target: str
    base: str
    load: str
    what: Literal["images_per_s", "p50_ms", "p99_ms"]
    ratio: float
    """Geometric mean over the pairs."""
    low: float
    high: float
    """95 % confidence interval (Student's t of the logarithms)."""
    num_pairs: int


class BenchResult(FrozenModel):
    """All loads of one benchmark."""

    schema_version: Literal[2] = 2
    model: str
    version: int | None
    url: str
    created: str = ""
    """UTC, ISO 8601."""
    command: str = ""
    environment: Environment
    measurements: tuple[Measurement, ...]
    repeated: tuple[Repeated, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    slo: dict[str, float | str | bool | None] | None = None
    """Objective and result of a search for the highest rate."""
    models: dict[str, dict[str, Any]] = pydantic.Field(default_factory=dict)
    """What the models' cards say of accuracy and family."""

    @property
    def is_valid(self) -> bool:
        """Whether every measurement's figures may be used."""
        return not any(measured.invalid for measured in self.measurements)


def schema_text() -> str:
    """Return the JSON schema (draft 2020-12) of a result, as docs/bench.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | BenchResult.model_json_schema()
    return json.dumps(schema, indent=2) + "\n"


def read_result(path: Path) -> BenchResult:
    """Read a result that `resx bench --json` or `-o` wrote.

    Raises:
        UsageError: there is none, or it cannot be understood.
    """
    remedy = "give a file that `resx bench -o FILE` wrote"
    try:
        content = read_bounded(path, MAX_RESULT_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; {remedy}") from error
    try:
        return BenchResult.model_validate_json(_without_error(content))
    except pydantic.ValidationError as error:
        raise UsageError(f"{path}: {explain_fault(error, content, remedy)}") from error


def _without_error(content: bytes) -> bytes:
    """Take out what `--json` adds to a result that failed, for programs: it is none of the result's fields."""
    if b'"error":' not in content:
        return content
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(found, dict) or found.pop("error", None) is None:
        return content
    return json.dumps(found).encode()


def histogram_text(made: Any) -> str:
    """Return an HdrHistogram as text."""
    encoded = made.encode()
    return encoded.decode() if isinstance(encoded, bytes) else base64.b64encode(encoded).decode()


def environment(address: Address, triton: str, config: Mapping[str, Any]) -> Environment:
    """Return what this machine and the model's configuration say."""
    from importlib import metadata

    packages = {name: metadata.version(name) for name in ("tritonclient", "numpy", "grpcio", "hdrhistogram")}
    threads = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "")
    count = num_instances(config)
    return Environment(
        resx=__version__,
        triton=triton,
        python=platform.python_version(),
        machine=processor(),
        usable_cores=usable_cores(),
        cpu_quota=cpu_quota(),
        governor=_governor(),
        load_average=round(os.getloadavg()[0], 2),
        server_is_local=is_local(address),
        server_kind=_kind(address),
        server_threads=f"{count} instance{'s' if count > 1 else ''}" + (f" of {threads} threads" if threads else ""),
        response_cache=bool(config.get("response_cache", {}).get("enable")),
        packages=packages,
    )


def is_local(address: Address) -> bool:
    """Say whether the server shares this machine."""
    return is_loopback(split_host(address.host_port)[0])


def _kind(address: Address) -> Literal["native", "isolated", ""]:
    state = server_at(address.host_port)
    return "" if state is None or state.server_dir else "native" if state.native else "isolated"


def _governor() -> str:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.exists() else ""
