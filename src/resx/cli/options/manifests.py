"""What `resx deploy --render` writes for a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import choose
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.serving.clusters.workload import Placement

_option = partial(typer.Option, rich_help_panel="Manifests, with --render")
_SHARED = {"name", "version", "repository", "json", "quiet"}
"""What has a meaning with and without a server."""

System: TypeAlias = Annotated[
    str,
    _option("--render", metavar="[kubernetes|kserve|helm]", help="Print manifests, without a server; helm: a chart."),
]
Image: TypeAlias = Annotated[
    str, _option(metavar="IMAGE", help="Triton's image, by tag or digest. Default: NVIDIA's, pinned.")
]
Replicas: TypeAlias = Annotated[int, _option(metavar="N", help="Pods; with an autoscaler the minimum.")]
Gpu: TypeAlias = Annotated[bool, _option("--gpu", metavar="", help="A GPU for each pod.")]
Store: TypeAlias = Annotated[
    str,
    _option(
        metavar="STORE",
        help="pvc:CLAIM, oci:IMAGE, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or as://ACCOUNT/CONTAINER/PREFIX. "
        "Default: pvc:model-repository.",
    ),
]
Scaler: TypeAlias = Annotated[str, _option(metavar="[hpa|keda|none]", help="Default: none.")]
Monitor: TypeAlias = Annotated[
    bool, _option("--monitor", metavar="", help="Add a ServiceMonitor for Prometheus's operator.")
]
Nodes: TypeAlias = Annotated[int, _option(min=0, metavar="N", help="Nodes for the pods: one replica a node, strictly.")]
NodeSelector: TypeAlias = Annotated[
    list[str] | None, _option(metavar="KEY=VALUE", help="Label that nodes must have; repeatable.")
]
RuntimeClass: TypeAlias = Annotated[str, _option(metavar="NAME", help="The pods' runtime class, such as nvidia.")]
ServiceAccount: TypeAlias = Annotated[
    str, _option(metavar="NAME", help="Account whose identity opens the storage, instead of a Secret.")
]
PriorityClass: TypeAlias = Annotated[str, _option(metavar="NAME", help="The pods' priority class.")]
PullSecret: TypeAlias = Annotated[
    list[str] | None, _option(metavar="NAME", help="Secret to pull the image with; repeatable.")
]
NoImageEndpoint: TypeAlias = Annotated[
    bool, _option("--no-image-endpoint", metavar="", help="Leave out the model's image endpoint.")
]
Folder: TypeAlias = Annotated[
    Path | None, _option("-o", "--output", metavar="DIR", help="Write the files here, and the release for the storage.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestOptions:
    """What the manifests are to be; an empty text where nothing was typed."""

    system: System = ""
    image: Image = ""
    replicas: Replicas = 2
    gpu: Gpu = False
    storage: Store = ""
    autoscaler: Scaler = ""
    monitor: Monitor = False
    nodes: Nodes = 0
    node_selector: NodeSelector = None
    runtime_class: RuntimeClass = ""
    service_account: ServiceAccount = ""
    priority_class: PriorityClass = ""
    pull_secret: PullSecret = None
    no_image_endpoint: NoImageEndpoint = False
    folder: Folder = None

    def require_fitting(self, typed: Mapping[str, str]) -> None:
        """Check that options for manifests stand with `--render`, and those for servers without it.

        Raises:
            UsageError: they do not.
        """
        own = {field.name for field in fields(self)}
        for name, option in typed.items():
            if self.system and name not in own | _SHARED:
                raise UsageError(
                    f"{option}: applies to a running server, but --render contacts none; remove one of the two"
                )
            if not self.system and name in own:
                raise UsageError(f"{option}: is for manifests; give --render kubernetes, kserve or helm too")

    def placement(self) -> Placement:
        """Return where and how the pods run.

        Raises:
            UsageError: a storage, a label or an autoscaler is none.
        """
        from resx.runtimes.triton_image import IMAGE
        from resx.serving.clusters.naming import parse_node_labels
        from resx.serving.clusters.storage import Storage, parse_storage
        from resx.serving.clusters.workload import AUTOSCALERS, Placement

        return Placement(
            image=self.image or IMAGE,
            replicas=self.replicas,
            gpu=self.gpu,
            image_endpoint=not self.no_image_endpoint,
            storage=parse_storage(self.storage) if self.storage else Storage(),
            autoscaler=choose("--autoscaler", self.autoscaler or "none", AUTOSCALERS),
            monitor=self.monitor,
            nodes=self.nodes,
            node_selector=parse_node_labels("--node-selector", self.node_selector or []),
            runtime_class=self.runtime_class,
            service_account=self.service_account,
            priority_class=self.priority_class,
            pull_secrets=tuple(self.pull_secret or ()),
        )
