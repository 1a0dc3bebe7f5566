"""Objects as folders that Kustomize reads: those of one model, and the examples in deploy/.

python -m resx.serving.kustomization deploy      writes deploy/kubernetes/ and deploy/kserve/ (`make manifests`)

kubernetes/base/            what every placement has
kubernetes/components/      pvc, s3, oci: where the models are; gpu; hpa, keda: how many pods
kubernetes/overlays/        cpu, gpu: the base with the components that most want
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from resx.errors import UsageError
from resx.files import write_atomic
from resx.serving.autoscaling import adapter_rules, autoscaler, unscaled
from resx.serving.kserve import kserve_manifests
from resx.serving.kubernetes import base, gpu_patches, storage_patches
from resx.serving.objects import Fields, Manifest, dump, text_of
from resx.serving.workload import Autoscaler, Placement, Storage, Workload

KUSTOMIZATION = "kustomization.yaml"
STORAGES = (
    Storage(kind="pvc", location="model-repository"),
    Storage(kind="s3", location="s3://my-bucket/model_repository"),
    Storage(kind="oci", location="registry.example.com/models/resnet50:1"),
)
_SCALERS: tuple[Autoscaler, ...] = ("hpa", "keda")
_WRITTEN = "# Written by `make manifests`. For a model of yours: resx deploy NAME --render {what}\n"


def example(placement: Placement | None = None) -> Workload:
    """Return the workload of deploy/: resnet50, one instance of four threads."""
    return Workload(
        model="resnet50", version=1, version_policy="latest 1", max_queue=32, cpus=4, memory_gib=3,
        placement=placement or Placement(),
    )  # fmt: skip


def folder_of(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Return the files, by name, of a folder with one object a file and what lists them."""
    files = {one.file: text_of([one]) for one in manifests}
    return files | {KUSTOMIZATION: dump(_kustomization(resources=sorted(files)))}


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Write files into a folder that is new or empty.

    Raises:
        UsageError: it has something in it, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"-o {folder}: exists and is not empty; give a new folder")
        for name, text in files.items():
            write_atomic(folder / name, text)
    except OSError as error:
        raise UsageError(f"-o {folder}: cannot be written ({error.strerror}); give a folder that can") from error


def deploy_files() -> dict[str, str]:
    """Return the files of deploy/kubernetes and deploy/kserve, by path in deploy/."""
    workload = example()
    files = {f"kubernetes/base/{name}": text for name, text in folder_of(base(workload)).items()}
    for storage in STORAGES:
        stored = replace(workload, placement=replace(workload.placement, storage=storage))
        files |= _component(storage.kind, patches=storage_patches(stored))
    files |= _component("gpu", patches=gpu_patches(workload))
    for scaler in _SCALERS:
        scaled = replace(workload, placement=replace(workload.placement, autoscaler=scaler))
        files |= _component(scaler, manifests=autoscaler(scaled), patches=[unscaled(workload)])
    for overlay, components in {"cpu": ["pvc", "hpa"], "gpu": ["pvc", "gpu", "hpa"]}.items():
        named = [f"../../components/{name}" for name in components]
        fields = _kustomization(resources=["../../base"], components=named)
        files[f"kubernetes/overlays/{overlay}/{KUSTOMIZATION}"] = dump(fields)
    files["kubernetes/prometheus-adapter.yaml"] = (
        "# Values for prometheus-adapter's chart: the metric that the HPA asks for.\n" + dump(adapter_rules())
    )  # fmt: skip
    served = replace(workload, placement=replace(workload.placement, autoscaler="none"))
    files |= {f"kserve/{name}": text for name, text in folder_of(kserve_manifests(served)).items()}
    return {path: _WRITTEN.format(what=path.partition("/")[0]) + text for path, text in files.items()}


def _component(name: str, *, manifests: Sequence[Manifest] = (), patches: Sequence[Fields]) -> dict[str, str]:
    folder = f"kubernetes/components/{name}"
    named = {f"patch-{patch['kind'].lower()}.yaml": patch for patch in patches}
    files = {one.file: text_of([one]) for one in manifests}
    fields = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component",
        **({"resources": sorted(files)} if files else {}), "patches": [{"path": path} for path in named],
    }  # fmt: skip
    files |= {path: dump(patch) for path, patch in named.items()} | {KUSTOMIZATION: dump(fields)}
    return {f"{folder}/{path}": text for path, text in files.items()}


def _kustomization(resources: Sequence[str], components: Sequence[str] = ()) -> Fields:
    fields = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(resources)}
    return fields | ({"components": list(components)} if components else {})


if __name__ == "__main__":
    for path, text in deploy_files().items():
        write_atomic(Path(sys.argv[1]) / path, text)
