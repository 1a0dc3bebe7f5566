"""`resx deploy NAME --render`: a version's manifests or chart, on stdout or in a folder; no server is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from resx.cli.options.manifests import ManifestOptions
from resx.cli.options.validation import choose
from resx.cli.output import Output
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.repository.versions import Repository
    from resx.serving.clusters.workload import Workload

SYSTEMS = ("kubernetes", "kserve", "helm")


def render(repository: Repository, name: str, version: int | None, wanted: ManifestOptions, out: Output) -> None:
    """Print, or write into a folder, what serves a published version in a cluster."""
    from resx.serving.clusters.workload import workload_of

    system = choose("--render", wanted.system, SYSTEMS)
    if system == "helm" and wanted.folder is None:
        raise UsageError("--render helm: a chart is a folder; give -o DIR")
    workload, remarks = workload_of(repository, name, wanted.placement(), version)
    payload: dict[str, Any] = {"name": name, "version": workload.version, "release": workload.release.name}
    payload, text = _render(system, workload, wanted.folder, payload)
    place = workload.placement.storage.place_of(workload.release.name, "/models" if system == "kserve" else "/")
    source = payload.get("releases", "")
    copy = f"copy {source}/{workload.release.name} there" if source else "-o DIR writes the files to copy there"
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
