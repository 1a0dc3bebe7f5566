"""A configuration moves to the runtime of a version and back; what is not the runtime's stays."""

from pathlib import Path
from typing import Any

import pytest

from resx.card.card import Card
from resx.card.runtime import Runtime
from resx.repository import config_pbtxt
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.runtime_configuration import fit_version, set_threads, threads_of
from resx.repository.versions import Repository
from tests.support.tiny_models import publish_tiny


def card_for(card: Card, hint: str) -> Card:
    runtime = Runtime(name="openvino", version="1", precision_hint=hint, instruction_set="avx512_bf16")  # type: ignore[arg-type]
    return card.model_copy(update={"runtime": runtime})


@pytest.fixture
def published(tmp_path: Path) -> tuple[Any, Card]:
    repository = Repository(tmp_path / "models")
    card, _ = publish_tiny(repository, "m")
    message = config_pbtxt.read(repository.root / "m" / CONFIG_FILE)
    message.instance_group[0].count = 2
    message.parameters["session.intra_op.spin_duration_us"].string_value = "50"
    message.dynamic_batching.max_queue_delay_microseconds = 300
    set_threads(message, 3)
    return message, card


@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_another_runtime_gets_its_own_words_and_the_same_split(published: tuple[Any, Card], hint: str) -> None:
    message, card = published
    before = config_pbtxt.text(message)
    fit_version(message, card_for(card, hint))
    assert message.backend == "openvino"
    assert message.parameters["INFERENCE_PRECISION_HINT"].string_value == hint
    assert message.parameters["INFERENCE_NUM_THREADS"].string_value == "6"
    assert (message.instance_group[0].count, threads_of(message)) == (2, 3)
    assert not [key for key in message.parameters if key.startswith(("session.", "intra_op"))]
    assert message.dynamic_batching.max_queue_delay_microseconds == 300
    fit_version(message, card)
    assert message.backend == "onnxruntime"
    assert (message.instance_group[0].count, threads_of(message)) == (2, 3)
    assert not [key for key in message.parameters if key.isupper()]
    again = config_pbtxt.parse(before)
    del again.parameters["session.intra_op.spin_duration_us"]
    assert message == again


def test_the_runtime_of_the_configuration_changes_nothing(published: tuple[Any, Card]) -> None:
    message, card = published
    before = config_pbtxt.text(message)
    fit_version(message, card)
    assert config_pbtxt.text(message) == before


@pytest.mark.parametrize(("threads", "text"), [(0, None), (2, "4")])
def test_openvino_counts_the_threads_of_all_instances(
    published: tuple[Any, Card], threads: int, text: str | None
) -> None:
    message, card = published
    fit_version(message, card_for(card, "f32"))
    message.instance_group[0].count = 2
    set_threads(message, threads)
    key = "INFERENCE_NUM_THREADS"
    assert (message.parameters[key].string_value if key in message.parameters else None) == text
    assert message.parameters["NUM_STREAMS"].string_value == "2"
    assert threads_of(message) == threads
