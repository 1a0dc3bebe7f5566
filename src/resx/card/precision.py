"""What was done to reach a precision: a TensorRT engine's layers, or a file's quantization."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from resx.card.kinds import MAX_CALIBRATION_IMAGES, BatchSize, CalibrationMethod, Count, NumImages
from resx.values import FrozenModel


class Engine(FrozenModel):
    """How a TensorRT plan or a TensorRT-RTX engine was built, and what its inspection showed."""

    builder: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    """Version of the builder. A TensorRT plan runs only under this version; Triton's container must have the same."""
    compute_capabilities: tuple[str, ...]
    """Compute capabilities of the target GPUs, such as `8.6`; empty: all that TensorRT-RTX supports."""
    gpu: str
    """The GPU that a TensorRT plan was built on; empty where none was needed."""
    batch_min: BatchSize
    batch_opt: BatchSize
    batch_max: BatchSize
    size_bytes: Count
    workspace_mib: Count
    """0: no bound of ours."""
    timing_cache: Literal["new", "reused", "none"]
    tf32: bool
    builder_level: int
    network_precisions: dict[str, Count]
    """Convolutions and matrix products of the parsed network, counted by what they compute in."""
    engine_precisions: dict[str, Count]
    """The same counts for the built engine, by TensorRT's inspector; empty without a GPU that can open it."""
    grouped_in_fp32: tuple[str, ...]
    """Grouped convolutions that were put back to fp32, as the builder refused them in fp16."""
    onnx_sha256: str
    """SHA-256 of the verified ONNX file that it was built from; empty if it was built elsewhere."""
    executed: bool
    """Whether it ran here, on a GPU; where not, the parity steps are the ONNX file's."""
    built_elsewhere: bool = False
    """Whether a finished plan was given; workspace, builder level and the parsed network's layers are not known."""
    num_wider: Count | None = None
    """Layers of the engine that compute in a wider precision than was asked for, beyond those that the parsed network
    has in one too; None where no inspector was asked."""
    wider_layers: tuple[str, ...] = ()
    """All layers of the engine that do, by the inspector's names."""


class KeptLayer(FrozenModel):
    """A layer that an int8 file computes in fp32."""

    layer: str
    """A node's name."""
    error: float | None
    """Share of signal power that 8 bits lose in the layer's worst tensor; None if the user chose the layer."""


class Quantisation(FrozenModel):
    """How an int8 file came to be."""

    calibrate: str = ""
    """Calibration data as given: `digits`, a path, `random`; empty for a run's own images."""
    num_asked: int = Field(default=512, ge=1, le=MAX_CALIBRATION_IMAGES)
    """Images that were wanted; there may have been fewer."""
    calibrated_on: str
    data_sha256: str
    """SHA-256 of the calibration images (shape and bytes)."""
    num_images: NumImages
    is_random: bool
    """Whether the images were noise; its ranges say nothing of real images."""
    method: CalibrationMethod
    tool: Literal["onnxruntime", "nncf"] = "onnxruntime"
    """What quantized it: NNCF for OpenVINO."""
    tool_version: str = ""
    """Empty in older cards."""
    table_key: str
    """Name of the calibration table in the cache folder: hash of fp32 file, data, method, runtime's version. Empty for
    NNCF, whose statistics are not kept."""
    num_layers: Count
    kept_fp32: tuple[KeptLayer, ...]
    kept_by_accuracy: Count = 0
    """Layers of `kept_fp32` that NNCF put back because accuracy fell by more than a point."""
    num_tried: Count
    """Files that the search for `kept_fp32` made and measured; 0 if the first one passed."""
    int8_share: float = Field(ge=0, le=1)
    """Share of the network's weight values that are int8."""
