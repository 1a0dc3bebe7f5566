"""`resx deploy NAME --render`: a model's manifests, on stdout or in a folder; no server is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from resx.cli.options import chosen
from resx.cli.output import Output
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.serving.objects import Manifest
    from resx.serving.repository import Repository
    from resx.serving.workload import Autoscaler, Workload

SYSTEMS = ("kubernetes", "kserve")
_RENDERING = frozenset({"image", "replicas", "gpu", "storage", "autoscaler", "folder"})
_SHARED = frozenset({"name", "system", "repository", "json", "quiet"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendering:
    """The options as they were given; an empty text where one was not."""

    system: str
    image: str
    replicas: int
    gpu: bool
    storage: str
    autoscaler: str
    folder: Path | None


def require_fitting(rendering: Rendering, context: typer.Context) -> None:
    """Check that the options of a rendering stand with `--render`, and those for servers without it.

    Raises:
        UsageError: they do not.
    """
    given = [parameter for parameter in context.command.params if _is_given(context, parameter.name or "")]
    for parameter in given:
        option = max(parameter.opts, key=len)
        if rendering.system and parameter.name not in _RENDERING | _SHARED:
            raise UsageError(f"{option}: is for a running server, and --render asks none; leave one of them out")
        if not rendering.system and parameter.name in _RENDERING:
            raise UsageError(f"{option}: is for manifests; give --render kubernetes or --render kserve too")


def render(repository: Repository, name: str, rendering: Rendering, out: Output) -> None:
    """Print, or write into a folder, what serves a published model in a cluster."""
    from resx.export.triton_image import IMAGE
    from resx.serving.kserve import kserve_manifests
    from resx.serving.kubernetes import kubernetes_manifests
    from resx.serving.kustomization import folder_of, write_folder
    from resx.serving.objects import text_of
    from resx.serving.workload import Placement, Storage, parse_storage, workload_of

    makers: dict[str, Callable[[Workload], list[Manifest]]] = {
        "kubernetes": kubernetes_manifests, "kserve": kserve_manifests,
    }  # fmt: skip
    make = makers[chosen("--render", rendering.system, SYSTEMS)]
    placement = Placement(
        image=rendering.image or IMAGE, replicas=rendering.replicas, gpu=rendering.gpu,
        storage=parse_storage(rendering.storage) if rendering.storage else Storage(),
        autoscaler=_autoscaler(rendering),
    )  # fmt: skip
    workload, remarks = workload_of(repository, name, placement)
    manifests = make(workload)
    payload = {"name": name, "version": workload.version, "objects": [one.fields for one in manifests]}
    text = text_of(manifests)
    if rendering.folder is not None:
        write_folder(rendering.folder, folder_of(manifests))
        payload["folder"] = str(rendering.folder)
        text = f"{len(manifests)} objects in {rendering.folder}; `kubectl apply -k {rendering.folder}` creates them\n"
    for remark in remarks:
        out.note(f"note: {remark}")
    out.result(payload, lambda _console: typer.echo(text, nl=False))


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _autoscaler(rendering: Rendering) -> Autoscaler:
    from resx.serving.workload import AUTOSCALERS

    if rendering.autoscaler:
        return chosen("--autoscaler", rendering.autoscaler, AUTOSCALERS)
    return "hpa" if rendering.system == "kubernetes" else "none"
