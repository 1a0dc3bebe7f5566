"""What `serve`, `stop`, `status`, `logs`, `deploy`, `rollback`, `undeploy` and `query` print."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from resx.cli.results.described import described


@described
class Ready(TypedDict):
    """`resx serve --json`, once every model passed its self-test."""

    http: str
    """host:port, as the next two."""
    grpc: str
    metrics: str
    pid: int
    log: str
    models: dict[str, list[int]]
    """Versions that are loaded, by model."""
    not_loaded: list[str]
    newer: dict[str, int]
    """Models with a version newer than the one that is served."""
    skipped: dict[str, str]
    """Folders of the repository that are no models, with the reason."""
    cpu_quota: float | None
    """CPU quota in cores; None without one."""
    server_dir: str | None


@described
class Stopped(TypedDict):
    """`resx stop --json`."""

    stopped: int | None
    """The process that ended; None if no server ran."""


@described
class Log(TypedDict):
    """`resx logs --json`."""

    log: str
    """Path of the log file."""
    lines: list[str]


@described
class ServedModel(TypedDict):
    """A model that is loaded."""

    name: str
    versions: list[int]
    ready: bool
    requests: int
    """Answered ones, without `self_tests`."""
    failed: int
    p50_ms: float | None
    """Median of the last minute, self-tests included; None without requests or metrics."""
    mean_ms: float | None
    """Since it was loaded, self-tests included; None without requests."""
    self_tests: int | None
    """Self-tests and requests before the deployment; None if unknown, then `requests` includes them."""


@described
class Gpu(TypedDict):
    """A GPU of the server at this moment; None where its driver does not say."""

    name: str
    utilization: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    power_w: float | None
    source: Literal["triton_metrics", "nvml"]


@described
class Restart(TypedDict):
    """The last time that the server or a model was restarted."""

    reason: str
    model: str | None
    """None: the whole server."""
    ago_s: float
    took_s: float


@described
class Addresses(TypedDict):
    """Where a server listens, as URLs."""

    http: str
    grpc: str
    metrics: str


@described
class Status(TypedDict):
    """`resx status --json`. What is optional is known only of a server that `resx serve` runs here."""

    url: str
    triton: str | None
    """Triton's version; None while it does not answer."""
    models: list[ServedModel]
    gpus: list[Gpu] | None
    skipped: dict[str, str]
    addresses: NotRequired[Addresses]
    pid: NotRequired[int]
    native: NotRequired[bool]
    device: NotRequired[str]
    phase: NotRequired[str]
    server_dir: NotRequired[str | None]
    guarded: NotRequired[bool]
    trouble: NotRequired[str]
    uptime_s: NotRequired[float]
    restarts: NotRequired[int]
    last_restart: NotRequired[Restart | None]
    recovering: NotRequired[dict[str, str]]
    set_aside: NotRequired[dict[str, str]]
    """Models that are not served, with the reason."""
    log: NotRequired[str]
    disk: NotRequired[str | None]
    """Why the log and the status cannot be written; None if they can."""


@described
class Deployed(TypedDict):
    """`resx deploy --json` and `resx rollback --json`."""

    name: str
    version: int
    previous: int | None
    url: str
    canary_difference: float
    checked: bool
    """Whether the model has a card, and so a self-test."""
    previous_kept: bool
    random_weights: bool


@described
class DeployPlan(TypedDict):
    """`resx deploy --dry-run --json`."""

    name: str
    version: int
    answering: int | None
    """The version that answers now."""
    url: str
    diff: list[str]
    """Lines of the configuration that would change."""
    checks: list[str]


@described
class FamilyCandidate(TypedDict):
    """A member of a depth family, with both latencies."""

    name: str
    version: int
    num_blocks: int
    whole_blocks: int
    accuracy: float
    recorded_ms: float
    measured_ms: float | None
    verdict: str


@described
class DeployedBest(TypedDict):
    """`resx deploy --best-under --json`."""

    family: str
    name: str
    version: int
    url: str
    bound_ms: float
    decided_by: Literal["measured", "recorded"]
    deployed: bool
    previous: int | None
    canary_difference: float | None
    previous_kept: bool
    members: list[FamilyCandidate]


@described
class FleetServer(TypedDict):
    """What happened on one server."""

    url: str
    repository: str
    happened: str
    previous: int | None
    trouble: str | None
    canary_difference: float | None
    checked: bool | None
    previous_kept: bool


@described
class FleetDeployed(TypedDict):
    """`resx deploy --url A,B --json`."""

    name: str
    version: int
    deployed: bool
    servers: list[FleetServer]


@described
class FleetServerPlan(TypedDict):
    """What would happen on one server."""

    url: str
    repository: str
    answering: int | None
    publishes: bool
    diff: list[str]
    checks: list[str]


@described
class FleetPlan(TypedDict):
    """`resx deploy --url A,B --dry-run --json`."""

    name: str
    version: int
    servers: list[FleetServerPlan]


@described
class Manifests(TypedDict):
    """`resx deploy --render SYSTEM --json`."""

    name: str
    version: int
    release: str
    objects: NotRequired[list[dict[str, Any]]]
    """Kubernetes' objects."""
    files: NotRequired[list[str]]
    """A chart's."""
    folder: NotRequired[str]
    releases: NotRequired[str]


@described
class Undeployed(TypedDict):
    """`resx undeploy --json`."""

    name: str
    versions: list[int]
    url: str


@described
class Guess(TypedDict):
    """A class of an image: a probability, or a score where the model gives none."""

    label: str
    index: int
    probability: NotRequired[float]
    score: NotRequired[float]


@described
class ImageAnswer(TypedDict):
    """The most likely classes of an image."""

    image: str
    top: list[Guess]


@described
class ImageAnswers(TypedDict):
    """`resx query --json`."""

    model: str
    url: str | None
    """The server's; None: computed in this process."""
    in_process: bool
    output: str
    """What the model gives: logits, probabilities or scores."""
    random_weights: bool
    images: list[ImageAnswer]


@described
class RequestCode(TypedDict):
    """`resx query --curl --json`, and of the other languages."""

    model: str
    language: str
    code: str
    """Whole lines, to be pasted."""
