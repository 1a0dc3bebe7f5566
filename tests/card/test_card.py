import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from resx.card import canary_rows, image_form, signature
from resx.card import card as cards
from resx.card.canary_rows import Canary
from resx.errors import UsageError
from tests.support.cards import card
from tests.support.tiny_models import tiny_spec

GOLDEN_CANARY = "5bead4bb0c912d29bd6394b5bd178a3ca3d4991d6ef5b6c4a192e6bb91aa1da6"


def test_the_canary_is_the_same_on_every_machine() -> None:
    images = canary_rows.canary_input(signature.signature_of(tiny_spec(), "uint8"), 2)
    assert images.shape == (2, 3, 16, 16)
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN_CANARY


def test_the_float_canary_is_the_normalised_one() -> None:
    spec = tiny_spec()
    pixels = canary_rows.canary_input(signature.signature_of(spec, "uint8"), 1)
    assert np.array_equal(
        canary_rows.canary_input(signature.signature_of(spec, "float32"), 1),
        image_form.as_float(pixels, spec.mean, spec.std),
    )


def test_a_card_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(cards.write_card(card()))
    assert cards.read_card(tmp_path) == card()


@pytest.mark.parametrize(
    ("text", "message"), [("{", "card.json"), ('{"schema_version": 2}', "schema_version"), ("", "card.json")]
)
def test_a_damaged_card_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(UsageError, match=f"{message}.*export the model again"):
        cards.read_card(tmp_path)


def test_a_missing_card_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`resx export` writes a card"):
        cards.read_card(tmp_path)


def test_the_canarys_difference_is_relative_and_infinite_where_nothing_compares() -> None:
    canary = Canary(num_images=1, logits=((10.0, -20.0),), tolerance=1e-3)
    assert canary_rows.canary_difference(canary, np.array([[10.0, -20.0]])) == 0.0
    assert canary_rows.canary_difference(canary, np.array([[10.0, -19.0]])) == pytest.approx(0.05)
    assert canary_rows.canary_difference(canary, np.array([[10.0]])) == np.inf
    assert canary_rows.canary_difference(canary, np.array([[10.0, np.nan]])) == np.inf
    zeros = Canary(num_images=1, logits=((0.0, 0.0),), tolerance=1e-3)
    assert canary_rows.canary_difference(zeros, np.array([[0.0, 0.0]])) == 0.0
    assert canary_rows.canary_difference(zeros, np.array([[0.0, 0.5]])) == 0.5


def test_a_card_from_before_there_were_families_names_none(tmp_path: Path) -> None:
    fields = json.loads(cards.write_card(card()))
    del fields["family"]
    (tmp_path / "card.json").write_text(json.dumps(fields))
    assert cards.read_card(tmp_path) == card()


def test_a_card_from_before_there_were_engines_is_an_onnx_files(tmp_path: Path) -> None:
    fields = json.loads(cards.write_card(card()))
    del fields["engine"]
    (tmp_path / "card.json").write_text(json.dumps(fields))
    assert cards.read_card(tmp_path) == card()
    assert cards.read_card(tmp_path).model_file == "model.onnx"
