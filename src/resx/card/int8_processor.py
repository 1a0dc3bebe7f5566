"""int8 on another processor than the one that it was verified on.

The same file may answer otherwise there. Without VNNI (AVX2, or AVX-512 alone) products of 8 bits are added in pairs in
16 bits, which overflow: a resnet50 of NNCF, whose layers but the first have weights of 8 bits, was off by 0.1 of the
logits' scale on photographs, 0.2 on noise (seen with ONEDNN_MAX_CPU_ISA=AVX2). And single kernels have been wrong on
single instruction sets (onnxruntime 1.23.1 on VNNI and AMX, its issue 26324). So an int8 version's card keeps the
answers to rows made for this, from the processor that it was verified on, and they are asked again where 8-bit
instructions differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.card import canary_rows
from resx.card.canary_rows import Canary
from resx.card.card import Card
from resx.card.signature import Signature
from resx.errors import ParityError
from resx.machine import int8_instructions, saturates_int8

Ask: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Logits [N, classes] for a batch of inputs that the file takes."""
_NUM_ROWS = 8
_LEAST_COSINE = 0.99
"""int8's bound against its source; the same file was seen to give 1.0 or, where products overflow, 0.97 to 0.98."""


def record_rows(signature: Signature, ask: Ask, *, max_batch_size: int, tolerance: float) -> Canary | None:
    """Return what an int8 file answers here, for its card; None for a file whose input is no image."""
    if len(signature.input_dims) != 3:
        return None
    size = signature.batch or min(_NUM_ROWS, max_batch_size)
    num_rows = -(-_NUM_ROWS // size) * size
    answer = _answer(signature, ask, num_rows, size)
    rows = tuple(tuple(float(f"{value:.7g}") for value in row) for row in np.asarray(answer, dtype=np.float64))
    return Canary(num_images=num_rows, logits=rows, tolerance=tolerance)


def differs(card: Card, processor: str) -> str:
    """Return how a version's int8 was verified for another processor; empty where it is this one's, or is no int8.

    Args:
        card: of the version.
        processor: the instruction set that serves (`machine.instruction_set`); empty: not known.
    """
    if card.precision != "int8" or card.engine is not None or card.accelerator is not None:
        return ""
    verified = card.runtime.instruction_set if card.runtime else ""
    if verified and int8_instructions(verified) == int8_instructions(processor):
        return ""
    return f"verified on {verified or 'a processor that its card does not name'}, served on {processor or 'another'}"


def repeat_parity(card: Card, ask: Ask, *, max_batch_size: int, processor: str) -> float:
    """Ask the kept rows again and return the largest difference, relative to the logits' scale; 0 where none are kept.

    Raises:
        ParityError: the answers are not those of the processor that the version was verified on.
    """
    kept = card.int8_rows
    if kept is None:
        return 0.0
    size = card.signature.batch or min(max_batch_size, kept.num_images)
    answer = _answer(card.signature, ask, kept.num_images, size)
    difference = canary_rows.canary_difference(kept, answer)
    cosine = _cosine(np.asarray(kept.logits), answer) if np.isfinite(difference) else 0.0
    if difference <= kept.tolerance and cosine >= _LEAST_COSINE:
        return difference
    why = " (without VNNI its products of 8 bits overflow)" if saturates_int8(processor) else ""
    raise ParityError(
        f"int8 {differs(card, processor)}{why}: answers differ by {difference:.3g} of their scale, allowed "
        f"{kept.tolerance:g}, cosine {cosine:.4f}, at least {_LEAST_COSINE:g}; export it on a processor like this one, "
        "or use fp32 or --fp16"
    )


def _answer(signature: Signature, ask: Ask, num_rows: int, size: int) -> npt.NDArray[Any]:
    rows = canary_rows.int8_input(signature, num_rows)
    return np.concatenate([ask(batch) for batch in _batches(rows, size)])


def _batches(rows: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _cosine(expected: npt.NDArray[Any], answer: npt.NDArray[Any]) -> float:
    norms = float(np.linalg.norm(expected) * np.linalg.norm(answer))
    return float((expected * answer).sum()) / norms if norms else float(not expected.any() and not answer.any())
