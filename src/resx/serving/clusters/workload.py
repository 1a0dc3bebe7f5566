"""What a cluster is to run: one release behind NVIDIA's Triton, read from its configuration and card.

The objects are made from it in `kubernetes.py`, `kserve.py` and `helm.py`. Nothing here speaks to a server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from resx.errors import UsageError
from resx.repository import config_rules, openvino_backend
from resx.repository.config_pbtxt import CONFIG_FILE, instances_per_device
from resx.repository.versions import Repository
from resx.runtimes.triton_image import IMAGE
from resx.serving.clusters import memory
from resx.serving.clusters.naming import LABEL_VALUE, dns_label, require_image, require_object_name
from resx.serving.clusters.release import Release, read_release
from resx.serving.clusters.startable import require_endpoint, require_fitting, require_packages, require_startable
from resx.serving.clusters.storage import Storage

Autoscaler: TypeAlias = Literal["hpa", "keda", "none"]
AUTOSCALERS: tuple[Autoscaler, ...] = ("hpa", "keda", "none")
GROWTH = 4
"""The most pods of an autoscaler, for each of the least."""
_ASSUMED_THREADS = 2
_STEP_MIB = 64
_MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What whoever deploys decides."""

    image: str = IMAGE
    replicas: int = 2
    """Where an autoscaler is at work: the least."""
    gpu: bool = False
    image_endpoint: bool = True
    """Whether the model's image endpoint is served too, if it has one."""
    storage: Storage = field(default_factory=Storage)
    autoscaler: Autoscaler = "none"
    monitor: bool = False
    """Whether Prometheus's operator is told to scrape the pods."""
    nodes: int = 0
    """Nodes that the pods may run on: each replica gets one of its own. 0: they are spread where that is possible."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    runtime_class: str = ""
    service_account: str = ""
    """Whose identity opens the storage, in place of a Secret."""
    priority_class: str = ""
    pull_secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_image("--image", self.image)
        if not 1 <= self.replicas <= 1000:
            raise UsageError(f"--replicas {self.replicas}: give 1 to 1000; `kubectl scale` takes a model down to 0")
        if self.nodes and self.nodes < self.replicas:
            raise UsageError(
                f"--nodes {self.nodes}: --replicas {self.replicas} want a node each; give as many nodes, or remove "
                "--nodes to spread them as far as possible"
            )
        for option, name in (
            ("--runtime-class", self.runtime_class),
            ("--service-account", self.service_account),
            ("--priority-class", self.priority_class),
            *(("--pull-secret", name) for name in self.pull_secrets),
        ):
            if name or option == "--pull-secret":
                require_object_name(option, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A version of a model of the repository, as it is to run in a cluster."""

    model: str
    version: int
    release: Release
    max_queue: int
    """Requests that may wait before one is refused; 0: no bound."""
    cpus: int
    """Threads that compute: instances x threads."""
    instances_mib: int
    """What the model's instances take together."""
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

    @property
    def tmp_gib(self) -> int:
        """The bound of /tmp in GiB; Triton copies the release into it where the storage is a bucket."""
        return 1 + (0 if self.placement.storage.is_mounted else math.ceil(self.release.size_bytes / 2**30))

    @property
    def memory_mib(self) -> int:
        """The server, what /dev/shm may take, the instances, and on a GPU the libraries for it."""
        gpu_mib = memory.GPU_MIB if self.placement.gpu else 0
        total = memory.SERVER_MIB + 1024 * self.shm_gib + self.instances_mib + gpu_mib
        return _STEP_MIB * math.ceil(total / _STEP_MIB)


def workload_of(
    repository: Repository, name: str, placement: Placement, version: int | None = None
) -> tuple[Workload, tuple[str, ...]]:
    """Read a published version, None the newest; return it with what its owner should know, a line each.

    Raises:
        UsageError: there is no such version, resx did not export it, or its pods would not start.
        ParityError: a file is not the one that was verified.
    """
    folder = repository.version_folder(name, version)
    path = repository.root / name / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"{name}: has no {CONFIG_FILE} to read instances and threads from; `resx export` writes one")
    number = int(folder.name)
    card, config = repository.card(name, number), config_rules.read_checked(repository.root, name)
    repository.fit_config(config, name, card)
    require_fitting(card, gpu=placement.gpu)
    require_startable(config, card, path.parent, gpu=placement.gpu)
    endpoints = tuple(repository.endpoints(name)) if placement.image_endpoint else ()
    require_packages(endpoints, placement.image)
    for endpoint in endpoints:
        its_config = config_rules.read_checked(repository.root, endpoint)
        require_endpoint(its_config, repository.root / endpoint, (name, *endpoints))
    if placement.autoscaler == "hpa" and not LABEL_VALUE.fullmatch(name):
        raise UsageError(
            f"--autoscaler hpa: picks the metric by the model's name, and {name} cannot be a label; give keda or none, "
            "or a name of at most 63 characters that ends in a letter or digit"
        )
    release = read_release(repository, name, number, card, endpoints)
    instances, threads = instances_per_device(config), _threads(config, name)
    instance_mib, remark = memory.memory_of(
        card, folder / card.model_file, batch=max(1, config.max_batch_size), threads=threads or _ASSUMED_THREADS
    )
    workload = Workload(
        model=name,
        version=number,
        release=release,
        max_queue=config.dynamic_batching.default_queue_policy.max_queue_size,
        cpus=instances * (threads or _ASSUMED_THREADS),
        instances_mib=instances * instance_mib,
        endpoints=endpoints,
        response_cache=config.response_cache.enable,
        placement=placement,
    )
    remarks = (
        remark,
        _threads_remark(workload, threads, instances),
        _engine_remark(name, card.engine),
        openvino_backend.container_remark(config),
        f"{endpoints[-1]}: the image must have Pillow (docs/container.md)" if endpoints else "",
    )
    return workload, tuple(one for one in remarks if one)


def _threads(config: Any, name: str) -> int:
    """Return the threads of an instance; 0 where the configuration leaves them to the server."""
    if config.backend == openvino_backend.NAME:
        return openvino_backend.threads_of(config)
    key = "intra_op_thread_count"
    text = config.parameters[key].string_value if key in config.parameters else "0"
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) > _MAX_THREADS:
        raise UsageError(
            f"{name}: {CONFIG_FILE}: parameters {key}: {text!a}: give 0 to {_MAX_THREADS}; Triton would not load it"
        )
    return int(text)


def _threads_remark(workload: Workload, threads: int, instances: int) -> str:
    if threads or workload.placement.gpu:
        return ""
    return (
        f"{workload.model}: its configuration names no threads, so an instance would start one for each core of the "
        f"node, whatever the pod may use; {workload.cpus} cpus are asked for, {instances} x {_ASSUMED_THREADS}. Export "
        f"with --threads {_ASSUMED_THREADS}, or as many as `resx bench` finds best"
    )


def _engine_remark(name: str, engine: Any) -> str:
    if engine is None:
        return ""
    capabilities = ", ".join(engine.compute_capabilities)
    return (
        f"{name}: a plan of TensorRT {engine.version} for compute capability {capabilities}: the image must have that "
        "TensorRT, and the nodes such a GPU (--node-selector)"
    )
