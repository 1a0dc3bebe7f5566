"""A file of another resx is told as one: by its version where it says so, by its fields where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from resx._version import __version__
from resx.bench.results.result import BenchResult, read_result
from resx.card import card as cards
from resx.errors import UsageError
from resx.files.json_faults import explain_fault
from resx.training.config import TrainingConfig
from resx.training.runs.run_origin import CONFIG, read_config
from resx.zoo.catalog import variant
from resx.zoo.spec import read_spec
from tests.support.cards import card


def changed(path: Path, text: str, **changes: Any) -> Path:
    path.write_text(json.dumps(json.loads(text) | changes))
    return path


@pytest.mark.parametrize(
    "changes", [{"x": 1}, {"schema_version": 2}, {"precision": "fp4"}, {"x": 1, "canary": None, "steps": 7}]
)
@pytest.mark.parametrize("writer", ["9.3", f"{__version__}.1", "1000.0rc1"])
def test_a_card_of_a_newer_resx_says_so(tmp_path: Path, changes: dict[str, Any], writer: str) -> None:
    changed(tmp_path / "card.json", cards.write_card(card()), tools={"resx": writer}, **changes)
    with pytest.raises(UsageError) as found:
        cards.read_card(tmp_path)
    path = tmp_path / "card.json"
    assert str(found.value) == f"{path}: written by resx {writer}, and this is {__version__}; upgrade resx to read it"


@pytest.mark.parametrize("field", ["x", "source.y"])
@pytest.mark.parametrize("writer", [__version__, "0.0.9"])
def test_a_field_that_this_version_does_not_know_is_named(tmp_path: Path, field: str, writer: str) -> None:
    fields = json.loads(cards.write_card(card())) | {"tools": {"resx": writer}}
    place = fields["source"] if "." in field else fields
    place[field.rpartition(".")[2]] = 1
    (tmp_path / "card.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError, match=rf"field '{field}': this resx \({__version__}\) does not know it; remove"):
        cards.read_card(tmp_path)


@pytest.mark.parametrize("writer", ["", "9\n9", "new", "9" * 50, 9, None, ["9.9"]])
def test_a_version_that_is_none_is_not_repeated(tmp_path: Path, writer: object) -> None:
    changed(tmp_path / "card.json", cards.write_card(card()), tools={"resx": writer}, x=1)
    with pytest.raises(UsageError, match="upgrade resx if a newer one wrote it, remove the field") as found:
        cards.read_card(tmp_path)
    assert "written by" not in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_a_spec_with_an_unknown_field_names_it(tmp_path: Path) -> None:
    path = changed(tmp_path / "spec.json", variant("resnet20").spec.model_dump_json(), x=1)
    with pytest.raises(
        UsageError, match="field 'x': this resx .* does not know it; upgrade resx if a newer one wrote it"
    ):
        read_spec(path)


def test_a_runs_configuration_with_an_unknown_field_names_it(tmp_path: Path) -> None:
    changed(tmp_path / CONFIG, TrainingConfig(data="digits").model_dump_json(), x=1)
    with pytest.raises(UsageError, match="field 'x': this resx .* does not know it; upgrade resx if a newer one wrote"):
        read_config(tmp_path)


def test_a_benchmarks_result_says_which_resx_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"environment": {"resx": "2.0"}, "x": 1}')
    with pytest.raises(UsageError, match="r.json: written by resx 2.0, and this is"):
        read_result(tmp_path / "r.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"tools": []}', b"[1]"])
def test_what_is_no_file_of_ours_is_explained_too(content: bytes) -> None:
    with pytest.raises(pydantic.ValidationError) as found:
        BenchResult.model_validate_json(content)
    assert explain_fault(found.value, content, "make it again").endswith("make it again")
