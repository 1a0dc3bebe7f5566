"""What computes a version's file on the CPU, and on which processor it was seen to do so."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from resx.card.kinds import Count
from resx.values import FrozenModel

RuntimeName: TypeAlias = Literal["onnxruntime", "openvino"]

RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")

PrecisionHint: TypeAlias = Literal["f32", "bf16"]
"""OpenVINO's words for what it computes floating-point layers in, whatever precision the file stores."""


class Runtime(FrozenModel):
    """The runtime that a file was verified in, and that serves it."""

    name: RuntimeName
    version: str
    precision_hint: PrecisionHint | None = None
    """Precision that OpenVINO computes in; None for onnxruntime, which uses the file's."""
    instruction_set: str
    """Instruction set of the verifying processor, such as `avx512_bf16`; others may round differently."""
    layer_precisions: dict[str, Count] = Field(default_factory=dict)
    """Convolutions and matrix products, counted by what they compute in; empty where the runtime does not say."""
