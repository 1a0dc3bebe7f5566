"""The model card says what card.json says, as YAML and Markdown that nothing of a stranger's can break."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from resx.card.card import Card
from resx.card.model_card import model_card, plain
from resx.repository.versions import Published, Repository
from tests.support.tiny_models import publish_tiny


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, Published]:
    return publish_tiny(Repository(tmp_path_factory.mktemp("cards") / "models"), "tiny")


def _front(text: str) -> dict[str, object]:
    _, facts, _ = text.split("---\n", 2)
    found = yaml.safe_load(facts)
    assert isinstance(found, dict)
    return found


def test_a_version_has_its_card_as_the_hub_shows_one(published: tuple[Card, Published]) -> None:
    card, version = published
    text = (version.folder / "README.md").read_text()
    assert text == model_card(card)
    assert _front(text) == {
        "library_name": "resx",
        "tags": ["resx", "onnx", "resnet", "fp32"],
        "pipeline_tag": "image-classification",
    }
    for heading in ("# tiny", "## Use", "## Input and output", "## Parity with the source", "## Files"):
        assert f"\n{heading}\n" in text
    assert "The weights are random" in text
    assert card.files["model.onnx"] in text
    assert f"{card.steps[-1].max_abs:.2e}" in text


def test_its_python_runs_beside_the_file(published: tuple[Card, Published], monkeypatch: pytest.MonkeyPatch) -> None:
    card, version = published
    (code,) = re.findall(r"```python\n(.*?)```", model_card(card), flags=re.DOTALL)
    monkeypatch.chdir(version.folder)
    found: dict[str, object] = {}
    exec(code, found)
    answers = found["answers"]
    assert isinstance(answers, np.ndarray)
    assert answers.shape == (1, 10)


def test_accuracy_is_a_metric_where_it_was_measured(published: tuple[Card, Published]) -> None:
    card, _ = published
    measured = {"accuracy": 0.75, "reference_accuracy": 0.5, "num_labelled": 8}
    step = card.steps[-1].model_copy(update=measured)
    text = model_card(card.model_copy(update={"steps": (step,)}))
    assert _front(text)["metrics"] == ["accuracy"]
    assert "accuracy 75.00%" in text


def test_a_version_that_was_not_verified_says_so(published: tuple[Card, Published]) -> None:
    card, _ = published
    text = model_card(card.model_copy(update={"steps": (), "verified": False}), place="hf:a/b")
    assert "was not compared with its source" in text
    assert "resx pull hf:a/b" in text


def test_a_strangers_words_are_no_markup(published: tuple[Card, Published]) -> None:
    card, _ = published
    spec = card.source.network
    hostile = "<script>|`x`[a](b)\x1b[31m"
    source = card.source.model_copy(update={"spec": spec.model_copy(update={"labels": (hostile,) * 10})})
    command = "resx export ```\n# heading\n<b>"
    text = model_card(card.model_copy(update={"source": source, "command": command}))
    body = text.split("```text", 1)[1]
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\n# heading" not in text
    assert body.index("\n```\n") < body.index("## Use")
    assert all(line.count("|") - line.count("\\|") == 3 for line in text.splitlines() if line.startswith("| classes"))


def test_plain_text_stays_in_one_line() -> None:
    assert plain("a\nb") == "a\\\\nb"
    assert plain("a_b*c") == "a\\_b\\*c"


def test_verify_takes_the_model_card_for_no_stranger(published: tuple[Card, Published], tmp_path: Path) -> None:
    from resx.serving.deployment.verification import verify_version

    _, version = published
    assert version.folder.joinpath("README.md").is_file()
    assert verify_version(version.folder, None).verdict("tiny") is None
    stranger = version.folder / "other.txt"
    stranger.write_text("x")
    try:
        assert "does not list it" in str(verify_version(version.folder, None).verdict("tiny"))
    finally:
        stranger.unlink()
