"""What `resx tune` chooses from: the model's versions, and exports for the search."""

from pathlib import Path

import pytest

from resx.card.card import FILE_NAME, write_card
from resx.card.runtime import Runtime
from resx.cli.steps.tuning_candidates import FileWishes, published_candidates, read_wishes, wanted_candidates
from resx.errors import UsageError
from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from tests.support.tiny_models import publish_tiny


@pytest.mark.parametrize(
    ("runtimes", "precisions", "published", "pairs"),
    [
        ("", "fp32,fp16", [("onnxruntime", "fp32")], [("onnxruntime", "fp32"), ("onnxruntime", "fp16")]),
        (
            "onnxruntime,openvino",
            "fp32,bf16",
            [("onnxruntime", "fp32")],
            [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")],
        ),
        ("openvino", "", [("onnxruntime", "fp32")], [("openvino", "fp32")]),
        # The usual runtime of a precision goes with it.
        (
            "",
            "bf16",
            [("onnxruntime", "fp32")],
            [("openvino", "bf16")],
        ),
        (" onnxruntime , onnxruntime", "fp32", [], [("onnxruntime", "fp32")]),
    ],
)
def test_each_pair_that_goes_together_is_searched(
    runtimes: str, precisions: str, published: list[tuple[str, str]], pairs: list[tuple[str, str]]
) -> None:
    assert read_wishes(runtimes, precisions, "").pairs(published) == pairs  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("runtimes", "precisions", "why"),
    [
        ("onnxruntime", "fp32,bf16", "no bfloat16 convolution"),
        ("openvino", "fp32,fp16", "runs fp16 files in fp32"),
    ],
)
def test_a_word_that_goes_with_nothing_is_refused_with_the_reason(runtimes: str, precisions: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_wishes(runtimes, precisions, "").pairs([])


def test_the_newest_verified_version_of_each_runtime_and_precision_counts(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    for _ in range(4):
        publish_tiny(repository, "m")
    other = Runtime(name="openvino", version="1", precision_hint="f32", instruction_set="avx2")
    for version, changes in {2: {"runtime": other}, 3: {"precision": "int8", "verified": False}}.items():
        card = repository.card("m", version).model_copy(update=changes)
        (repository.version_folder("m", version) / FILE_NAME).write_text(write_card(card))
    found = published_candidates(repository, "m", 1)
    assert [candidate.key for candidate in found] == [(1, "onnxruntime", "fp32"), (2, "openvino", "fp32")]
    assert [candidate.version for candidate in published_candidates(repository, "m", 4)] == [2, 4]
    (repository.version_folder("m", 2) / FILE_NAME).unlink()
    assert [candidate.version for candidate in published_candidates(repository, "m", 4)] == [4]


def test_what_no_version_is_is_exported_beside_and_nothing_is_published(tmp_path: Path) -> None:
    repository, scratch = Repository(tmp_path / "models"), tmp_path / "scratch"
    source = load_source("resnet20", weights="none", seed=0)
    export_into(repository, source, ExportOptions(), ServingOptions(), name="m", command="test")
    published, steps = published_candidates(repository, "m", 1), list[str]()
    found = wanted_candidates(
        published, 1, FileWishes(precisions=("fp16",)), scratch, on_step=steps.append, on_left_out=pytest.fail
    )
    assert [candidate.key for candidate in found] == [(1, "onnxruntime", "fp32"), (0, "onnxruntime", "fp16")]
    assert found[1].card.verified
    assert found[1].card.precision == "fp16"
    assert found[1].repository.root.is_relative_to(scratch)
    assert "export for onnxruntime in fp16" in steps
    assert repository.versions("m") == [1]
    assert wanted_candidates(published, 1, FileWishes(), scratch, on_step=pytest.fail, on_left_out=pytest.fail) == (
        published[0],
    )
