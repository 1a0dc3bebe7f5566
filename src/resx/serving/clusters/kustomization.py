"""Objects as folders that `kubectl apply -k` reads: those of one model, and the examples in deploy/.

python -m resx.serving.clusters.kustomization deploy      writes the examples (`make manifests`)

kubernetes/cpu/ kubernetes/gpu/     what `--render kubernetes` gives, with a claim
kserve/                             what `--render kserve` gives
helm/                               what `--render helm` gives
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from resx.errors import UsageError
from resx.files.staging import write_atomic
from resx.serving.clusters.autoscaling import adapter_rules
from resx.serving.clusters.helm import SCHEMA, chart_files
from resx.serving.clusters.kserve import kserve_manifests
from resx.serving.clusters.kubernetes import kubernetes_manifests
from resx.serving.clusters.manifest import Manifest, dump, text_of
from resx.serving.clusters.release import RELEASES, Release, write_release
from resx.serving.clusters.storage import Storage
from resx.serving.clusters.workload import Placement, Workload

KUSTOMIZATION = "kustomization.yaml"
STORAGES = (
    Storage(kind="pvc", location="model-repository"),
    Storage(kind="oci", location="registry.example.com/models/resnet50:1"),
    Storage(kind="s3", location="s3://my-bucket/models"),
    Storage(kind="gs", location="gs://my-bucket/models"),
    Storage(kind="as", location="as://myaccount/my-container/models"),
)
_SYSTEMS = ("kubernetes", "kserve", "helm")
_WRITTEN = "# Written by `make manifests`. For a model of yours: resx deploy NAME --render {what}\n"


def example(placement: Placement | None = None) -> Workload:
    """Return the workload of deploy/: resnet50, one instance of four threads."""
    sha256 = hashlib.sha256(b"an example").hexdigest()
    release = Release(name=f"resnet50-1-{sha256[:12]}", sha256=sha256, size_bytes=102_000_000, files={})
    return Workload(
        model="resnet50",
        version=1,
        release=release,
        max_queue=32,
        cpus=4,
        instances_mib=512,
        placement=placement or Placement(),
    )


def folder_of(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return the files, by name, of a folder with one object a file and what lists them."""
    files = {one.file: text_of([one]) for one in manifests}
    fields = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(files)}
    return files | {KUSTOMIZATION: dump(fields)}


def write_folder(folder: Path, files: Mapping[str, str], release: Release) -> Path:
    """Write files, and the release for the storage, into a folder that is new or empty; return the release's folder.

    Raises:
        UsageError: it has something in it, or cannot be written; what was written is removed.
    """
    was_there = folder.exists()
    try:
        if was_there and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"-o {folder}: exists and is not empty; give a new folder")
        try:
            written = write_release(release, folder / RELEASES)
            for name, text in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(folder / name, text)
        except BaseException:
            for entry in folder.iterdir() if was_there else [folder]:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"-o {folder}: cannot be written ({error.strerror}); give a folder that can") from error
    return written


def deploy_files() -> dict[str, str]:
    """Return the files of deploy/kubernetes, deploy/kserve and deploy/helm, by path in deploy/."""
    files: dict[str, str] = {}
    for name, gpu in {"cpu": False, "gpu": True}.items():
        manifests = kubernetes_manifests(example(Placement(gpu=gpu)))
        files |= {f"kubernetes/{name}/{path}": text for path, text in folder_of(manifests).items()}
    files["kubernetes/prometheus-adapter.yaml"] = text_of([adapter_rules()])
    files |= {f"kserve/{name}": text for name, text in folder_of(kserve_manifests(example())).items()}
    files |= {f"helm/{name}": text for name, text in chart_files(example()).items()}
    return {
        path: text if path.endswith((SCHEMA, ".helmignore")) else _WRITTEN.format(what=path.partition("/")[0]) + text
        for path, text in files.items()
    }


def write_examples(folder: Path) -> None:
    """Write the examples into `folder`, in place of those that are there."""
    for system in _SYSTEMS:
        shutil.rmtree(folder / system, ignore_errors=True)
    for path, text in deploy_files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / path, text)


if __name__ == "__main__":
    write_examples(Path(sys.argv[1]))
