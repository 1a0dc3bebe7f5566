"""int8 on another processor: known by its 8-bit instructions, and asked again what it answered before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resx.card import int8_processor
from resx.card.canary_rows import int8_input
from resx.card.card import Card, read_card, write_card
from resx.card.runtime import Runtime
from resx.card.signature import signature_of
from resx.errors import ParityError
from resx.export.pipeline import export_version
from resx.machine import instruction_set, saturates_int8
from resx.runtimes.model_file import open_model
from tests.support.int8_models import options, tiny
from tests.support.tiny_models import tiny_spec

SIGNATURE = signature_of(tiny_spec(), "uint8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    folder = tmp_path_factory.mktemp("version")
    patch = pytest.MonkeyPatch()
    patch.setenv("RESX_CACHE", str(tmp_path_factory.mktemp("cache")))
    card = export_version(tiny(), options(), folder, name="m", command="x")
    patch.undo()
    return folder, card


def verified_on(card: Card, processor: str | None) -> Card:
    runtime = Runtime(name="onnxruntime", version="1", instruction_set=processor) if processor else None
    return card.model_copy(update={"runtime": runtime})


@pytest.mark.parametrize(
    ("verified", "here", "differs"),
    [
        ("avx2", "avx2", False),
        ("avx512_vnni", "avx512_bf16", False),  # the same 8-bit instructions
        ("avx512_bf16", "avx2", True),
        ("avx2", "avx512_vnni", True),
        ("avx512", "avx512_vnni", True),
        ("amx", "avx512_vnni", True),
        ("avx_vnni", "avx512_vnni", True),
        ("avx2", "neon", True),
        ("avx2", "", True),  # a server elsewhere
        (None, "avx2", True),  # an older card
    ],
)
def test_a_version_is_told_apart_by_its_8_bit_instructions(
    verified: str | None, here: str, differs: bool, exported: tuple[Path, Card]
) -> None:
    said = int8_processor.differs(verified_on(exported[1], verified), here)
    assert bool(said) == differs
    if differs and verified:
        assert verified in said
        assert here in said


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_other_precisions_are_nobodys_concern(precision: str, exported: tuple[Path, Card]) -> None:
    card = verified_on(exported[1], "avx2").model_copy(update={"precision": precision})
    assert int8_processor.differs(card, "amx") == ""


def test_an_int8_card_keeps_answers_and_the_file_gives_them_again(exported: tuple[Path, Card]) -> None:
    folder, card = exported
    assert card.int8_rows is not None
    assert len(card.int8_rows.logits) == 8
    assert read_card(folder) == card
    assert write_card(card).count("\n") < 2000  # a row of numbers is a line
    model = open_model(folder / "model.onnx", card)
    for size in (1, 3, 4):
        assert int8_processor.repeat_parity(card, model, max_batch_size=size, processor="avx2") < 1e-3


@pytest.mark.parametrize(("processor", "said"), [("avx2", "products of 8 bits overflow"), ("amx", "served on amx")])
def test_answers_of_overflowing_products_are_refused(processor: str, said: str, exported: tuple[Path, Card]) -> None:
    folder, card = exported
    model = open_model(folder / "model.onnx", card)

    def overflowing(batch: np.ndarray) -> np.ndarray:
        answer = model(batch)
        return np.clip(answer, -0.4 * np.abs(answer).max(), 0.4 * np.abs(answer).max())

    with pytest.raises(ParityError, match=said):
        int8_processor.repeat_parity(
            verified_on(card, "avx512_vnni"), overflowing, max_batch_size=4, processor=processor
        )


@pytest.mark.parametrize("answer", [np.nan, np.inf, 0.0])
def test_answers_that_are_no_numbers_or_nothing_are_refused(answer: float, exported: tuple[Path, Card]) -> None:
    card = exported[1]
    with pytest.raises(ParityError, match="int8"):
        int8_processor.repeat_parity(
            card, lambda batch: np.full((len(batch), 10), answer), max_batch_size=8, processor="avx2"
        )


def test_the_rows_are_the_same_bytes_everywhere_and_reach_both_ends() -> None:
    rows = int8_input(SIGNATURE, 8)
    assert rows.shape == (8, *SIGNATURE.input_dims)
    assert (rows.min(), rows.max()) == (0, 255)
    assert rows[:, :, 0, 0].tolist() == int8_input(SIGNATURE, 9)[:8, :, 0, 0].tolist()
    assert set(np.unique(rows[1])) == {0, 255}


_ASK = """
import sys
from pathlib import Path
from resx.card import int8_processor
from resx.card.card import read_card
from resx.errors import ParityError
from resx.runtimes.model_file import open_model
folder = Path(sys.argv[1])
card = read_card(folder)
model = open_model(folder / card.model_file, card)
try:
    print(int8_processor.repeat_parity(card, model, max_batch_size=4, processor="avx2"))
except ParityError as error:
    print(f"1 {error}")
"""


@pytest.mark.parametrize("processor", ["avx512_vnni", "avx2"])
def test_real_overflow_is_refused_and_seven_bits_prevent_it(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's library of kernels is told to use AVX2 alone, whose products of 8 bits are added in 16."""
    pytest.importorskip("nncf", reason="needs resx[openvino]")
    if instruction_set() not in ("amx", "avx512_bf16", "avx512_vnni", "avx_vnni"):
        pytest.skip(f"{instruction_set()}: this processor has no VNNI, so that nothing differs on AVX2")
    assert not saturates_int8(instruction_set())
    monkeypatch.setattr("resx.export.int8.nncf_quantization.instruction_set", lambda: processor)
    export_version(tiny(), options(runtime="openvino", method="mean"), tmp_path, name="m", command="x")

    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(tmp_path)],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    difference = float(done.stdout.split()[0])
    assert difference < 1e-5 if processor == "avx2" else difference > 1e-2
