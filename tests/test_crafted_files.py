"""Cards and specs from a stranger: numbers, depths and sizes that no network has are one line, and cost nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resx.card.card import FILE_NAME, Card, read_card
from resx.cli.commands.info import _run_facts
from resx.errors import ResxError, UsageError
from resx.files.staging import sha256_of
from resx.repository.versions import Repository
from resx.serving.deployment.verification import verify_version
from resx.zoo.spec import SPEC_FILE, ModelSpec, read_spec
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny, tiny_spec

BIG = 10**9
SPEC_FAULTS: dict[str, Any] = {
    "classes": 10**12, "image_size": 10**6, "resize": -5, "mean": [float("nan"), 0, 0], "std": [0, 1, 1],
    "survival": float("nan"), "labels": [1] * 5000, "dropped_blocks": [BIG],
    "architecture.width": BIG, "architecture.stage_depths": [10**7, 1, 1], "architecture.cardinality": -5,
    "architecture.inner_width": 1.5,
}  # fmt: skip
TOO_LARGE = [
    {"family": "resnet", "block": "basic", "stage_depths": [1] * 40},
    {"family": "resnet", "block": "basic", "stage_depths": [1999, 1999]},
    {"family": "resnet", "block": "bottleneck", "stage_depths": [2, 2, 2, 2], "width": 4096},
    {"family": "resnet", "block": "bottleneck", "stage_depths": [900], "inner_width": 64, "cardinality": 64,
     "form": "aggregated", "width": 1},
    {"family": "preresnet", "block": "bottleneck", "stage_depths": [3, 3, 3], "width": 60_000},
    {"family": "densenet", "block_depths": [1000, 900], "growth_rate": 512, "stem_width": 1},
    {"family": "densenet", "block_depths": [2], "growth_rate": 65_000, "stem_width": 1, "compression": float("nan")},
    {"family": "highway", "stage_depths": [9, 9], "stage_widths": [8, 60_000]},
    {"family": "highway", "stage_depths": [9], "stage_widths": [8], "gate_bias": float("-inf")},
    {"family": "vgg", "stage_depths": [1], "stage_widths": [8], "hidden_width": 65_000},
]  # fmt: skip


def put(fields: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    """Return the fields with one of them replaced, named by a path with dots."""
    copy = json.loads(json.dumps(fields))
    *path, last = where.split(".")
    node = copy
    for part in path:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[int(last) if isinstance(node, list) else last] = value
    return dict(copy)


@pytest.mark.parametrize("where", SPEC_FAULTS)
def test_a_spec_with_numbers_of_no_network_is_one_line(tmp_path: Path, where: str) -> None:
    fields = put(tiny_spec().model_dump(mode="json"), where, SPEC_FAULTS[where])
    (tmp_path / SPEC_FILE).write_text(json.dumps(fields))
    with pytest.raises(UsageError, match=r"spec\.json: ") as found:
        read_spec(tmp_path / SPEC_FILE)
    assert len(str(found.value)) < 600
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("architecture", TOO_LARGE)
def test_a_network_that_would_take_all_memory_is_refused_as_it_is_read(architecture: dict[str, Any]) -> None:
    fields = tiny_spec().model_dump(mode="json") | {"architecture": architecture, "image_size": 64, "resize": 64}
    with pytest.raises((UsageError, ValueError)):
        ModelSpec.model_validate_json(json.dumps(fields))


def test_classes_and_channels_that_are_too_many_together_are_refused() -> None:
    assert tiny_spec().with_changes(classes=1_000_000).classes == 1_000_000
    with pytest.raises(UsageError, match="million weights"):
        ModelSpec.model_validate(put(tiny_spec().model_dump(), "architecture.width", 512) | {"classes": 1_000_000})


@pytest.mark.parametrize(
    "text", ["[" * 1_000_000, '{"a":' * 200_000, "nan", "", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
             '{"name": "' + "x" * 17_000_000 + '"}', '{"\x1b[31m' + "y" * 5000 + '": 1}'],
    ids=["brackets", "braces", "word", "nothing", "surrogate", "17 MB", "key"],
)  # fmt: skip
def test_a_text_that_is_no_spec_is_one_short_line(tmp_path: Path, text: str) -> None:
    (tmp_path / SPEC_FILE).write_text(text)
    with pytest.raises(UsageError, match=r"spec\.json: ") as found:
        read_spec(tmp_path / SPEC_FILE)
    assert len(str(found.value)) < 600
    assert "\x1b" not in str(found.value)


def test_a_spec_or_card_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / SPEC_FILE)
    (tmp_path / FILE_NAME).symlink_to("/dev/zero")
    for read in (lambda: read_spec(tmp_path / SPEC_FILE), lambda: read_card(tmp_path)):
        with pytest.raises(UsageError, match="not a regular file"):
            read()


@pytest.mark.parametrize("text", ["[" * 100_000, "1", "nan", "{", "\xff"])
def test_a_runs_crafted_metrics_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / SPEC_FILE).write_text(tiny_spec().model_dump_json())
    (tmp_path / "metrics.jsonl").write_text(text, "latin-1")
    with pytest.raises(UsageError, match=r"metrics\.jsonl: has a line that resx did not write"):
        _run_facts(tmp_path)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A published version's folder and its card's fields, as they should be."""
    _, published = publish_tiny(Repository(tmp_path_factory.mktemp("crafted") / "model_repository"), "m")
    fields = json.loads((published.folder / FILE_NAME).read_text())
    arguments = {"source": "resnet20", "weights": "none", "seed": 0, "image_size": None, "settings": []}
    fields["source"]["arguments"] = arguments
    return published.folder, fields


CARD_FAULTS: dict[str, Any] = {
    "steps.0.num_images": BIG, "steps.0.batch_sizes": [-5], "max_batch_size": BIG, "num_weights": -5, "opset": 1e400,
    "canary.num_images": BIG, "canary.logits": [[float("nan")] * 10] * 2, "canary.tolerance": float("nan"),
    "canary.logits.0": [1e400] * 10, "source.arguments.seed": -5, "source.arguments.image_size": 10**6,
    "source.spec.classes": 10**12, "source.spec.image_size": 10**6, "source.spec.architecture.width": BIG,
    "source.spec.architecture.stage_depths": [10**7], "fp16_share": float("nan"), "files": {"model.onnx": "00"},
    "files.MODEL.onnx": "0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("where", CARD_FAULTS)
def test_a_card_with_numbers_of_no_model_is_one_line(
    version: tuple[Path, dict[str, Any]], tmp_path: Path, where: str
) -> None:
    _, fields = version
    path, _, last = where.rpartition("files.")
    crafted = put(fields, where, CARD_FAULTS[where]) if path or not last.endswith("onnx") else None
    if crafted is None:
        crafted = json.loads(json.dumps(fields))
        crafted["files"][last] = CARD_FAULTS[where]
    (tmp_path / FILE_NAME).write_text(json.dumps(crafted))
    with pytest.raises(UsageError, match=r"card\.json: .*; export the model again") as found:
        read_card(tmp_path)
    assert len(str(found.value)) < 600


def test_a_largest_batch_that_no_memory_holds_is_one_line(version: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, fields = version
    spec = fields["source"]["spec"] | {"image_size": 4000, "resize": 4000}
    crafted = put(put(fields, "source.spec", spec), "max_batch_size", 1000)
    (tmp_path / FILE_NAME).write_text(json.dumps(crafted))
    with pytest.raises(UsageError, match=r"1000 inputs of \[3, 4000, 4000\]"):
        read_card(tmp_path)


SETTINGS = ["width=60000", "stage_depths=[1000000]", "stage_depths=" + "[" * 100_000, "width=1e400", "classes=10000000"]


@pytest.mark.parametrize("setting", SETTINGS, ids=["width", "depth", "brackets", "infinity", "classes"])
def test_a_source_with_crafted_settings_is_not_built(
    version: tuple[Path, dict[str, Any]], tmp_path: Path, setting: str
) -> None:
    folder, fields = version
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (tmp_path / FILE_NAME).write_text(json.dumps(put(fields, "source.arguments.settings", [setting])))
    (source,) = [check for check in verify_version(tmp_path, None).checks if check.skipped]
    assert re.search(r"--set|million weights|less than or equal to", source.detail)


def test_a_card_that_lists_no_file_proves_nothing(
    version: tuple[Path, dict[str, Any]], tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    folder, fields = version
    copy = tmp_path / "model_repository" / "m" / "1"
    copy.mkdir(parents=True)
    (copy / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (copy / "other.bin").write_text("beside")
    others = {"other.bin": sha256_of(copy / "other.bin")}
    for files in ({}, others, {"Model.onnx": fields["files"]["model.onnx"]}):
        (copy / FILE_NAME).write_text(json.dumps(fields | {"files": files}))
        done = resx("verify", "m", "-q")
        assert done.code == 3, files
        assert done.err.count("\n") == 1
    for files in ({}, others):
        (copy / FILE_NAME).write_text(json.dumps(fields | {"files": files}))
        done = resx("export", "--reproduce", copy, "-q")
        assert (done.code, "does not list model.onnx among its files" in done.err) == (2, True)


def test_a_file_that_the_card_does_not_list_is_no_part_of_the_version(version: tuple[Path, dict[str, Any]]) -> None:
    """It may hold the weights, which are then nobody's."""
    folder, _ = version
    (folder / "weights.bin").write_text("of whoever")
    try:
        found = [check for check in verify_version(folder, None).checks if not check.passed]
    finally:
        (folder / "weights.bin").unlink()
    assert [check.what for check in found] == ["weights.bin belongs to the verified version"]


def test_what_resx_writes_itself_is_within_all_bounds(version: tuple[Path, dict[str, Any]]) -> None:
    _, fields = version
    assert isinstance(Card.model_validate_json(json.dumps(fields)), Card)
    with pytest.raises(ResxError, match="give a smaller batch"):
        publish_tiny_of_size(4000)


def publish_tiny_of_size(image_size: int) -> None:
    from resx.card.signature import require_values, signature_of

    require_values(signature_of(tiny_spec(image_size=image_size), "uint8"), 1000)
