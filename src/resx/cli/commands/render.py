"""`resx deploy NAME --render`: a version's manifests or chart, on stdout or in a folder; no server is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from resx.cli.options.shared import choose
from resx.cli.output import Output
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.repository.versions import Repository
    from resx.serving.clusters.workload import Placement, Workload

SYSTEMS = ("kubernetes", "kserve", "helm")
_SHARED = frozenset({"name", "version", "system", "repository", "json", "quiet"})
_PANEL = "Manifests, with --render"

System: TypeAlias = Annotated[
    str,
    typer.Option(
        "--render",
        metavar="SYSTEM",
        help="Print manifests, without a server: kubernetes, kserve or helm (a chart).",
        rich_help_panel=_PANEL,
    ),
]
Image: TypeAlias = Annotated[
    str, typer.Option(help="Triton's image, by tag or digest. Default: NVIDIA's, pinned.", rich_help_panel=_PANEL)
]
Replicas: TypeAlias = Annotated[int, typer.Option(help="Pods; with an autoscaler the fewest.", rich_help_panel=_PANEL)]
Gpu: TypeAlias = Annotated[bool, typer.Option("--gpu", help="A GPU for each pod.", rich_help_panel=_PANEL)]
Store: TypeAlias = Annotated[
    str,
    typer.Option(
        help="pvc:CLAIM, oci:IMAGE, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or as://ACCOUNT/CONTAINER/PREFIX. "
        "Default: pvc:model-repository.",
        rich_help_panel=_PANEL,
    ),
]
Scaler: TypeAlias = Annotated[str, typer.Option(help="hpa, keda or none. Default: none.", rich_help_panel=_PANEL)]
Monitor: TypeAlias = Annotated[
    bool, typer.Option("--monitor", help="Add a ServiceMonitor for Prometheus's operator.", rich_help_panel=_PANEL)
]
Nodes: TypeAlias = Annotated[
    int, typer.Option(min=0, help="Nodes for the pods: one replica a node, strictly.", rich_help_panel=_PANEL)
]
NodeSelector: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Label that nodes must have; repeatable.", rich_help_panel=_PANEL),
]
RuntimeClass: TypeAlias = Annotated[
    str, typer.Option(help="The pods' runtime class, such as nvidia.", rich_help_panel=_PANEL)
]
ServiceAccount: TypeAlias = Annotated[
    str, typer.Option(help="Account whose identity opens the storage, instead of a Secret.", rich_help_panel=_PANEL)
]
PriorityClass: TypeAlias = Annotated[str, typer.Option(help="The pods' priority class.", rich_help_panel=_PANEL)]
PullSecret: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="Secret to pull the image with; repeatable.", rich_help_panel=_PANEL)
]
NoImageEndpoint: TypeAlias = Annotated[
    bool, typer.Option("--no-image-endpoint", help="Leave out the model's image endpoint.", rich_help_panel=_PANEL)
]
Folder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="DIR",
        help="Write the files here, and the release for the storage.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendering:
    """The options as they were given; an empty text where one was not."""

    system: str
    image: str
    replicas: int
    gpu: bool
    storage: str
    autoscaler: str
    monitor: bool
    nodes: int
    node_selector: list[str] | None
    runtime_class: str
    service_account: str
    priority_class: str
    pull_secret: list[str] | None
    no_image_endpoint: bool
    folder: Path | None


def require_fitting(rendering: Rendering, context: typer.Context) -> None:
    """Check that the options of a rendering stand with `--render`, and those for servers without it.

    Raises:
        UsageError: they do not.
    """
    own = set(Rendering.__dataclass_fields__) - _SHARED
    given = [parameter for parameter in context.command.params if _is_given(context, parameter.name or "")]
    for parameter in given:
        option = max(parameter.opts, key=len)
        if rendering.system and parameter.name not in own | _SHARED:
            raise UsageError(f"{option}: is for a running server, and --render asks none; leave one of them out")
        if not rendering.system and parameter.name in own:
            raise UsageError(f"{option}: is for manifests; give --render kubernetes, kserve or helm too")


def render(repository: Repository, name: str, version: int | None, rendering: Rendering, out: Output) -> None:
    """Print, or write into a folder, what serves a published version in a cluster."""
    from resx.serving.clusters.workload import workload_of

    system = choose("--render", rendering.system, SYSTEMS)
    if system == "helm" and rendering.folder is None:
        raise UsageError("--render helm: a chart is a folder; give -o DIR")
    workload, remarks = workload_of(repository, name, _placement(rendering), version)
    payload: dict[str, Any] = {"name": name, "version": workload.version, "release": workload.release.name}
    payload, text = _render(system, workload, rendering.folder, payload)
    place = workload.placement.storage.place_of(workload.release.name, "/models" if system == "kserve" else "/")
    source = payload.get("releases", "")
    copy = f"copy {source}/{workload.release.name} there" if source else "-o DIR writes what belongs there"
    for remark in (*remarks, f"the pods read {place}; {copy}"):
        out.note(f"note: {remark}")
    out.result(payload, lambda _console: typer.echo(text, nl=False))


def _render(
    system: str, workload: Workload, folder: Path | None, payload: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    from resx.serving.clusters.helm import chart_files
    from resx.serving.clusters.kserve import kserve_manifests
    from resx.serving.clusters.kubernetes import kubernetes_manifests
    from resx.serving.clusters.kustomization import folder_of, write_folder
    from resx.serving.clusters.manifest import text_of
    from resx.serving.clusters.release import RELEASES

    if system == "helm":
        files, said = (
            chart_files(workload),
            f"a chart in {folder}; `helm install {workload.label} {folder}` installs it\n",
        )
        payload = payload | {"files": sorted(files)}
    else:
        manifests = kubernetes_manifests(workload) if system == "kubernetes" else kserve_manifests(workload)
        payload = payload | {"objects": [one.fields for one in manifests]}
        if folder is None:
            return payload, text_of(manifests)
        files = folder_of(manifests)
        said = f"{len(manifests)} objects in {folder}; `kubectl apply -k {folder}` creates them\n"
    assert folder is not None
    write_folder(folder, files, workload.release)
    return payload | {"folder": str(folder), "releases": str(folder / RELEASES)}, said


def _placement(rendering: Rendering) -> Placement:
    from resx.runtimes.triton_image import IMAGE
    from resx.serving.clusters.naming import parse_node_labels
    from resx.serving.clusters.storage import Storage, parse_storage
    from resx.serving.clusters.workload import AUTOSCALERS, Placement

    return Placement(
        image=rendering.image or IMAGE,
        replicas=rendering.replicas,
        gpu=rendering.gpu,
        image_endpoint=not rendering.no_image_endpoint,
        storage=parse_storage(rendering.storage) if rendering.storage else Storage(),
        autoscaler=choose("--autoscaler", rendering.autoscaler or "none", AUTOSCALERS),
        monitor=rendering.monitor,
        nodes=rendering.nodes,
        node_selector=parse_node_labels("--node-selector", rendering.node_selector or []),
        runtime_class=rendering.runtime_class,
        service_account=rendering.service_account,
        priority_class=rendering.priority_class,
        pull_secrets=tuple(rendering.pull_secret or ()),
    )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
