"""The words of a card, and how large what it names may be."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]

Target: TypeAlias = Literal["cpu", "gpu"]

TARGETS: tuple[Target, ...] = ("cpu", "gpu")

CalibrationMethod: TypeAlias = Literal["entropy", "minmax", "percentile", "mean"]

CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = ("entropy", "minmax", "percentile")
"""Of onnxruntime, its default first."""

NNCF_METHODS: tuple[CalibrationMethod, ...] = ("mean", "minmax", "percentile")
"""Of NNCF, which quantizes for OpenVINO."""

InputType: TypeAlias = Literal["uint8", "float32"]

INPUT_TYPES: tuple[InputType, ...] = ("uint8", "float32")

OutputKind: TypeAlias = Literal["logits", "probabilities", "scores"]
"""What an output is: logits; probabilities of classes that exclude each other (a softmax is in the file); or scores,
each of which stands for itself (a sigmoid for each label, or a single number)."""

OUTPUT_KINDS: tuple[OutputKind, ...] = ("logits", "probabilities", "scores")

Layout: TypeAlias = Literal["nchw", "nhwc"]
"""Where the channels of an image lie in a file's input: first, as PyTorch has them, or last, as TensorFlow does."""

LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")

ChannelOrder: TypeAlias = Literal["rgb", "bgr"]
"""Which channel of an image comes first; bgr is OpenCV's and Caffe's."""

CHANNEL_ORDERS: tuple[ChannelOrder, ...] = ("rgb", "bgr")

PixelMax: TypeAlias = Literal[1, 255]
"""What white is in a file's float input, before mean and standard deviation."""

PIXEL_MAXIMA: tuple[PixelMax, ...] = (1, 255)

MAX_BATCH = 65_536

MAX_CALIBRATION_IMAGES = 1_000_000

MAX_SEED = 2**63 - 1

MAX_VALUES = 2**30
"""Bytes of the largest batch that a file is tried with: what a card asks for is made in memory."""

NumImages: TypeAlias = Annotated[int, Field(ge=0, le=100_000_000)]

Count: TypeAlias = Annotated[int, Field(ge=0, le=10**12)]
"""Of anything that is reported and never made."""

BatchSize: TypeAlias = Annotated[int, Field(ge=1, le=MAX_BATCH)]

Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]

Dims: TypeAlias = Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_VALUES)], ...], Field(min_length=1, max_length=8)]

_SHA256 = re.compile(r"[0-9a-f]{64}")
