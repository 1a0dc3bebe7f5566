"""What a cluster is told to run: one published model behind NVIDIA's Triton, read from its configuration and card.

The objects themselves are made of it in `kubernetes.py` and `kserve.py`. Nothing here speaks to a server.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from resx.errors import UsageError
from resx.export.card import Card
from resx.reading import read_text
from resx.serving import triton_config
from resx.serving.repository import Repository
from resx.serving.triton_config import CONFIG_FILE

IMAGE = "nvcr.io/nvidia/tritonserver:26.09-py3"
"""The release that docker-compose.yml runs; a test holds them equal."""
MODELS = "/models"
LABEL_LIMIT = 40
"""Characters of the objects' names: KServe and headless services add their own to these, and a label ends at 63."""
_ASSUMED_THREADS = 2
_GIB = 2**30
_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[^@\s]+:([A-Za-z0-9_][A-Za-z0-9._-]{0,127})")
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_BUCKET = re.compile(r"s3://(https?://[A-Za-z0-9.-]+:\d+/)?[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]+)?/?")

StorageKind: TypeAlias = Literal["pvc", "s3", "oci"]
Autoscaler: TypeAlias = Literal["hpa", "keda", "none"]
AUTOSCALERS: tuple[Autoscaler, ...] = ("hpa", "keda", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where the pods find the model repository."""

    kind: StorageKind = "pvc"
    location: str = "model-repository"
    """A claim's name, an s3:// URL, or an image's reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What whoever deploys decides."""

    image: str = IMAGE
    replicas: int = 2
    """Where an autoscaler is at work: the least."""
    gpu: bool = False
    storage: Storage = field(default_factory=Storage)
    autoscaler: Autoscaler = "hpa"

    def __post_init__(self) -> None:
        pinned("--image", self.image)
        if not 1 <= self.replicas <= 1000:
            raise UsageError(f"--replicas {self.replicas}: give 1 to 1000; `kubectl scale` takes a model down to 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A model of the repository, as it is to run in a cluster."""

    model: str
    version: int
    """The newest in the repository when this was read."""
    version_policy: str
    """Of config.pbtxt: what Triton loads of the versions that it finds."""
    max_queue: int
    """Requests that may wait before one is refused; 0: no bound."""
    cpus: int
    """Threads that compute: instances x threads."""
    memory_gib: int
    """An estimate: a GiB for the server, what /dev/shm may take, and three times the file for each instance."""
    endpoints: tuple[str, ...] = ()
    """The models of its image endpoint, in the order to load them."""
    response_cache: bool = False
    placement: Placement = field(default_factory=Placement)

    @property
    def label(self) -> str:
        """The name of its objects: a DNS label that begins with a letter, different for different models."""
        return dns_label(self.model)

    @property
    def shm_gib(self) -> int:
        """The bound of /dev/shm in GiB; only the python backend, of an image endpoint, passes tensors through it."""
        return 2 if self.endpoints else 1


def dns_label(model: str) -> str:
    """Return `triton-` and the model's name as a DNS label (RFC 1035).

    Where the name had to be changed, six digits of its hash keep `a_b` and `a.b` apart.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    label = f"triton-{plain}"
    if plain == model and len(label) <= LABEL_LIMIT:
        return label
    mark = hashlib.sha256(model.encode()).hexdigest()[:6]
    return f"{label[: LABEL_LIMIT - 7].rstrip('-')}-{mark}"


def pinned(option: str, image: str) -> str:
    """Return the reference of an image that names its release: a tag other than `latest`, or a digest.

    Raises:
        UsageError: it does not.
    """
    if _DIGEST.fullmatch(image):
        return image
    tag = _TAG.fullmatch(image)
    if tag is None:
        raise UsageError(f"{option} {image}: names no release; give NAME:TAG or NAME@sha256:DIGEST")
    if tag[1] == "latest":
        raise UsageError(f"{option} {image}: what `latest` is changes under running pods; give a release")
    return image


def parse_storage(text: str) -> Storage:
    """Read pvc:CLAIM, s3://BUCKET/PREFIX or oci:IMAGE.

    Raises:
        UsageError: it is none of them.
    """
    kind, _, rest = text.partition(":")
    if kind == "pvc" and _CLAIM.fullmatch(rest):
        return Storage(kind="pvc", location=rest)
    if kind == "s3" and _BUCKET.fullmatch(text):
        return Storage(kind="s3", location=text.rstrip("/"))
    if kind == "oci" and rest.strip("/"):
        return Storage(kind="oci", location=pinned("--storage oci:", rest.removeprefix("//")))
    raise UsageError(f"--storage {text}: give pvc:CLAIM, s3://BUCKET/PREFIX or oci:IMAGE:TAG")


def workload_of(repository: Repository, name: str, placement: Placement) -> tuple[Workload, tuple[str, ...]]:
    """Read a published model; return it with what its owner should know, a line each.

    Raises:
        UsageError: there is no such model, resx did not export it, or it cannot run as it is to be placed.
    """
    folder = repository.version_folder(name)
    path = repository.root / name / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"{name}: has no {CONFIG_FILE} to read instances and threads from; `resx export` writes one")
    card, config = repository.card(name), triton_config.parse(read_text(path))
    _require_fitting(card, placement)
    instances = sum(max(1, group.count) for group in config.instance_group) or 1
    threads = int(config.parameters["intra_op_thread_count"].string_value or 0) if config.parameters else 0
    endpoints = tuple(repository.endpoints(name))
    size_bytes = sum((folder / file).stat().st_size for file in card.files)
    shm_gib = 2 if endpoints else 1
    workload = Workload(
        model=name, version=int(folder.name), version_policy=_policy(config),
        max_queue=config.dynamic_batching.default_queue_policy.max_queue_size,
        cpus=instances * (threads or _ASSUMED_THREADS),
        memory_gib=math.ceil(1 + shm_gib + 3 * instances * size_bytes / _GIB),
        endpoints=endpoints, response_cache=config.response_cache.enable, placement=placement,
    )  # fmt: skip
    return workload, tuple(_remarks(workload, threads, instances))


def _require_fitting(card: Card, placement: Placement) -> None:
    if placement.gpu and card.precision == "int8" and card.target == "cpu":
        raise UsageError(
            f"--gpu: {card.name} is int8 in the CPU's form, which a GPU does not compute in int8; leave --gpu out, or "
            "export it with --target gpu"
        )
    if card.engine is not None and not placement.gpu:
        raise UsageError(f"{card.name}: is a TensorRT plan, which runs on a GPU alone; give --gpu")


def _policy(config: Any) -> str:
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return "all"
        case "specific":
            return f"specific {' '.join(map(str, policy.specific.versions))}"
    return f"latest {policy.latest.num_versions or 1}"


def _remarks(workload: Workload, threads: int, instances: int) -> list[str]:
    remarks = []
    if not threads and not workload.placement.gpu:
        remarks.append(
            f"{workload.model}: its configuration names no threads, so an instance would start one for each core of "
            f"the node, whatever the pod may use; {workload.cpus} cpus are asked for, {instances} x "
            f"{_ASSUMED_THREADS}. Export with --threads {_ASSUMED_THREADS}, or as many as `resx bench` finds best"
        )
    if workload.endpoints:
        remarks.append(
            f"{workload.endpoints[-1]}: needs an image with Pillow (docs/container.md); without it no pod becomes ready"
        )
    return remarks
