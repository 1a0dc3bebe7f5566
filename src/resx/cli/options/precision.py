"""In which numbers a file computes, and what int8 is calibrated on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.validation import choose
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.card.kinds import CalibrationMethod, InputType, Precision
    from resx.card.runtime import RuntimeName

_option = partial(typer.Option, rich_help_panel="Precision")

Fp16: TypeAlias = Annotated[bool, _option("--fp16", metavar="", help="Store and compute in half precision.")]
Bf16: TypeAlias = Annotated[bool, _option("--bf16", metavar="", help="Compute in bfloat16; on the CPU by OpenVINO.")]
Int8: TypeAlias = Annotated[
    bool, _option("--int8", metavar="", help="Compute on 8-bit integers; calibrates on real images.")
]
InputName: TypeAlias = Annotated[
    str,
    _option(
        "--input",
        metavar="[uint8|float32]",
        help="uint8: normalized in the graph; float32: the normalized tensor. Default: uint8, or the .onnx file's.",
    ),
]
Calibrate: TypeAlias = Annotated[
    str,
    _option(metavar="DATA", help="For int8: digits, DIR, FILE.npz or random. Default: the run's own training images."),
]
CalibrateImages: TypeAlias = Annotated[
    int, _option("--calibrate-images", min=1, max=1_000_000, metavar="N", help="Images to calibrate on.")
]
CalibrateMethod: TypeAlias = Annotated[
    str,
    _option(
        "--calibrate-method",
        metavar="[entropy|minmax|percentile|mean]",
        help="entropy: onnxruntime alone, its default; mean: OpenVINO alone, its default.",
    ),
]
KeepFp32: TypeAlias = Annotated[
    list[str] | None,
    _option("--keep-fp32", metavar="LAYER", help="For int8: layers that stay fp32, as `layer4.*`. Repeatable."),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionOptions:
    """In which numbers the file computes."""

    fp16: Fp16 = False
    bf16: Bf16 = False
    int8: Int8 = False
    input_type: InputName = ""
    calibrate: Calibrate = ""
    calibrate_images: CalibrateImages = 512
    calibrate_method: CalibrateMethod = ""
    keep_fp32: KeepFp32 = None

    def precision(self) -> Precision:
        """Return the one precision that was asked for, or fp32.

        Raises:
            UsageError: several were, or what only int8 needs without it.
        """
        asked: list[Precision] = ["fp16"] if self.fp16 else []
        asked += ["bf16"] if self.bf16 else []
        asked += ["int8"] if self.int8 else []
        if len(asked) > 1:
            raise UsageError(f"--{' --'.join(asked)}: a file has one precision; choose one")
        if not self.int8 and (self.calibrate or self.keep_fp32):
            raise UsageError("--calibrate, --keep-fp32: apply to int8 only; add --int8")
        return asked[0] if asked else "fp32"

    def method(self, runtime: RuntimeName) -> CalibrationMethod:
        """Return how int8 is calibrated for a runtime."""
        from resx.export.combinations import calibration_methods

        methods = calibration_methods(runtime)
        return choose("--calibrate-method", self.calibrate_method or methods[0], methods)

    def input(self) -> InputType | None:
        """Return the type of the file's input; None: as its source has it."""
        from resx.card.kinds import INPUT_TYPES

        return choose("--input", self.input_type, INPUT_TYPES) if self.input_type else None
