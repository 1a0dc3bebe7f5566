"""Templates of manifests, filled in: a value stays one value, in YAML and in a chart, and bad ones are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from resx.errors import UsageError
from resx.serving.clusters import manifest
from resx.serving.clusters.helm import SCHEMA, chart_files
from resx.serving.clusters.kubernetes import kubernetes_manifests
from resx.serving.clusters.kustomization import STORAGES, example
from resx.serving.clusters.manifest import ChartValue, Manifest, chart_text, dump, fill, text_of
from resx.serving.clusters.naming import parse_node_labels
from resx.serving.clusters.storage import Storage
from resx.serving.clusters.workload import Placement

HOSTILE = [
    "a: b",
    "'",
    '"',
    "x\nkind: Pod",
    "{{ .Values.x }}",
    "${name}",
    "# no",
    "null",
    "1",
    "- x",
    "&a",
    "!helm 'x'",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_stays_one_value_wherever_it_is_filled_in(text: str) -> None:
    template = "# ${text}\nwhole: ${text}\npart: a ${text} b\nlist:\n- ${text}\n- ${several}\ngone: ${nothing}\n"
    filled = fill(template, {"text": text, "several": [text, text], "nothing": None})
    wanted = {"whole": text, "part": f"a {text} b", "list": [text] * 3}
    assert filled.fields == wanted
    assert yaml.safe_load(text_of([filled])) == wanted
    assert text_of([filled]).splitlines()[1].startswith("whole")


def test_a_chart_takes_settings_as_json_and_leaves_other_braces_as_text() -> None:
    fields = {
        "a": ChartValue(key="x"),
        "b": [{"c": ChartValue(key="y", condition="always")}],
        "d": "{{ .Release.Name }}",
    }
    text = chart_text(Manifest(fields=fields))
    assert "{{- if .Values.x }}\na: {{ toJson .Values.x }}\n{{- end }}\n" in text
    assert "- c: {{ toJson .Values.y }}\n" in text
    assert "{{ .Release" not in text


def test_a_chart_of_a_name_that_is_no_label_offers_no_hpa() -> None:
    for name, has_hpa in (("resnet50", True), ("a_", False), ("x" * 64, False)):
        files = chart_files(replace(example(), model=name))
        assert ("templates/horizontalpodautoscaler.yaml" in files) == has_hpa
        assert ("hpa" in json.loads(files[SCHEMA])["properties"]["autoscaler"]["enum"]) == has_hpa


def test_every_template_is_yaml_and_every_place_is_filled() -> None:
    folder = Path(manifest.__file__).parent / "templates"
    for path in folder.rglob("*.yaml"):
        assert yaml.safe_load(path.read_text()), path
    json.loads((folder / "helm/values.schema.json").read_text())

    bucket = Placement(storage=Storage(kind="s3", location="s3://bucket/models"))
    for text in (
        *chart_files(example(bucket)).values(),
        *(dump(one.fields) for one in kubernetes_manifests(example())),
    ):
        assert "${" not in text


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ({"replicas": 0}, "--replicas 0"), ({"replicas": -1}, "--replicas -1"), ({"replicas": 1001}, "--replicas 1001"),
        ({"replicas": 3, "nodes": 2}, "--nodes 2"), ({"runtime_class": "Nvidia"}, "--runtime-class Nvidia"),
        ({"service_account": "a b"}, "--service-account a b"), ({"priority_class": "x: y"}, "--priority-class x: y"),
        ({"pull_secrets": ("",)}, "--pull-secret"), ({"pull_secrets": ("a", "-b")}, "--pull-secret -b"),
    ],
)  # fmt: skip
def test_a_placement_that_cannot_be_is_refused(placement: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Placement(**placement)


@pytest.mark.parametrize("labels", [["gpu"], ["=x"], ["a=b: c"], ["A b=c"], ["x/=y"], ["a=1", "a=2"], ["a={{ . }}"]])
def test_a_label_of_nodes_that_cannot_be_is_refused(labels: list[str]) -> None:
    with pytest.raises(UsageError, match="--node-selector"):
        parse_node_labels("--node-selector", labels)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.kind)
def test_every_storage_names_the_release(storage: Storage) -> None:
    workload = example(Placement(storage=storage))
    pod = next(one for one in kubernetes_manifests(workload) if one.kind == "Deployment").fields
    text = dump(pod["spec"]["template"]["spec"])
    wanted = workload.release.sha256 if storage.kind == "oci" else workload.release.name
    assert wanted in text
