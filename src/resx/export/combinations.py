"""Which runtimes, precisions and targets go together: one table, asked before anything is loaded. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resx.card.card import Accelerator
from resx.card.kinds import CALIBRATION_METHODS, NNCF_METHODS, CalibrationMethod, Precision, Target
from resx.card.runtime import PrecisionHint, RuntimeName
from resx.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """What decides how a file is computed."""

    runtime: RuntimeName
    precision: Precision
    target: Target
    accelerator: Accelerator | None = None

    def __post_init__(self) -> None:
        for refused, value, reason in _REFUSED:
            if all(getattr(self, name) == wanted for name, wanted in refused.items()):
                raise UsageError(f"{value}: {reason}")

    @property
    def precision_hint(self) -> PrecisionHint:
        """What OpenVINO is asked to compute in; f32 is asked for too, as it takes bf16 by itself."""
        return "bf16" if self.precision == "bf16" else "f32"

    @property
    def file_precision(self) -> Precision:
        """What the file stores: OpenVINO computes in bf16 from an fp32 file."""
        return "fp32" if self.runtime == "openvino" and self.precision == "bf16" else self.precision


_REFUSED: Final[tuple[tuple[dict[str, str], str, str], ...]] = (
    (
        {"accelerator": "tensorrt", "target": "cpu"},
        "target cpu",
        "TensorRT runs on a GPU and does not accept int8 quantized for CPUs; use target gpu",
    ),
    (
        {"runtime": "openvino", "accelerator": "tensorrt"},
        "--runtime openvino",
        "--accelerator tensorrt works inside onnxruntime; remove one of the two",
    ),
    (
        {"runtime": "openvino", "target": "gpu"},
        "--runtime openvino",
        "computes on the CPU here, but --target gpu makes a file for the GPU; remove one of the two",
    ),
    (
        {"runtime": "openvino", "precision": "fp16"},
        "--fp16 --runtime openvino",
        "OpenVINO runs fp16 files in fp32 on a CPU, which gains nothing; use --bf16, or --runtime onnxruntime",
    ),
    (
        {"runtime": "onnxruntime", "precision": "bf16", "target": "cpu"},
        "--bf16 --runtime onnxruntime",
        "onnxruntime has no bfloat16 convolution on the CPU; remove --runtime to use OpenVINO",
    ),
)


def usual_runtime(precision: Precision, target: Target) -> RuntimeName:
    """Return what computes a file if nobody says: onnxruntime, but for bf16 on the CPU."""
    return "openvino" if precision == "bf16" and target == "cpu" else "onnxruntime"


def calibration_methods(runtime: RuntimeName) -> tuple[CalibrationMethod, ...]:
    """Return the ways to find int8's ranges for a runtime, the usual one first."""
    return NNCF_METHODS if runtime == "openvino" else CALIBRATION_METHODS


def require_computable(wanted: Combination) -> None:
    """Check, before long work, that this machine has what computes the file.

    Raises:
        MissingCapability: OpenVINO, or BF16 in the processor, is missing.
    """
    if wanted.runtime == "openvino":
        from resx.runtimes import openvino_package

        openvino_package.load_openvino()
        if wanted.precision_hint == "bf16":
            openvino_package.require_bf16()
        if wanted.precision == "int8":
            from resx.export.int8.nncf_quantization import load_nncf

            openvino_package.require_int8()
            load_nncf()
