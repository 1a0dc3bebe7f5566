"""The card: what a published version is, where it came from, and the proof that it computes the same.

`card.json` lies beside the model file. It is written before publication and never changed. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import FailFast, Field

from resx.errors import ExportError, UsageError
from resx.export.family import Family
from resx.export.quantised_graph import QuantisedGraph
from resx.export.tuning import Tuning
from resx.files import checked_name
from resx.listing import TENSOR_RULE, is_tensor_name, one_line
from resx.reading import MAX_TEXT_BYTES, read_bounded
from resx.zoo.catalog import module_of
from resx.zoo.file_faults import explain_fault
from resx.zoo.spec import (
    Channels,
    FrozenModel,
    ImageSize,
    Interpolation,
    Labels,
    ModelSpec,
    Resize,
    require_divisors,
)

FILE_NAME = "card.json"
ENGINE_FILES = {"tensorrt": "model.plan", "tensorrt_rtx": "model.engine"}
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
Target: TypeAlias = Literal["cpu", "gpu"]
TARGETS: tuple[Target, ...] = ("cpu", "gpu")
Accelerator: TypeAlias = Literal["tensorrt"]
"""What computes an ONNX file in place of the runtime's own kernels: TensorRT, inside onnxruntime."""
ACCELERATORS: tuple[Accelerator, ...] = ("tensorrt",)
CalibrationMethod: TypeAlias = Literal["entropy", "minmax", "percentile"]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = ("entropy", "minmax", "percentile")
InputType: TypeAlias = Literal["uint8", "float32"]
INPUT_TYPES: tuple[InputType, ...] = ("uint8", "float32")
OutputKind: TypeAlias = Literal["logits", "probabilities", "scores"]
"""What an output is: logits; probabilities of classes that exclude each other (a softmax is in the file); or scores,
each of which stands for itself (a sigmoid for each label, or a single number)."""
OUTPUT_KINDS: tuple[OutputKind, ...] = ("logits", "probabilities", "scores")
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
_RANDOM = re.compile(r"random( \(seed \d+\)(, .*)?)?")


class Tolerance(FrozenModel):
    """What a step may change. All bounds are relative to the logits' scale, the largest |reference|.

    How they are judged, and why they have these values: `resx.export.parity`.
    """

    max_abs: float | None = None
    """Bound on the largest difference, times max(1, scale)."""
    max_rel: float | None = None
    """Bound on the largest difference, times scale."""
    mean_rel: float | None = None
    """Bound on the mean difference, times scale."""
    top1_agreement: float | None = None
    """Share of decided images that keep their most likely class; fewer fail only where chance does not explain it."""
    cosine: float | None = None
    """Least cosine between the two logits of an image, mean over the images."""
    accuracy_drop: float | None = None
    """Most that accuracy may fall, as a share of the images; where their classes are known."""


class Parity(FrozenModel):
    """How far one step's output is from its input's, over all images that were tried."""

    step: str
    num_images: NumImages
    batch_sizes: tuple[BatchSize, ...]
    scale: float
    max_abs: float
    mean_abs: float
    p99_abs: float | None = None
    """99 of 100 logits differ by no more."""
    top1_agreement: float
    """Share of all images with the same most likely class."""
    num_flips: NumImages | None = None
    """Images with another most likely class; None, as the next three, in cards from before they were counted."""
    num_decided: NumImages | None = None
    """Images whose reference margin, first logit less second, is above twice the error that the tolerance allows."""
    num_decided_flips: NumImages | None = None
    """Flips among those; the others are near ties, which are reported and not judged."""
    near_tie_margin: float | None = None
    """Widest reference margin of a near tie that flipped, as a share of what makes an image decided."""
    cosine: float | None = None
    """None, as `p99_abs`, in cards from before it was measured."""
    accuracy: float | None = None
    reference_accuracy: float | None = None
    """Of the images whose classes are known; None if there are none."""
    num_labelled: NumImages | None = None
    """How many those are."""
    accuracy_drop_low: float | None = None
    """Lower end of the one-sided 95 % interval of the fall in accuracy, as a share of the images."""
    tolerance: Tolerance
    passed: bool


class GpuParity(FrozenModel):
    """How far the file's output is from its source's on a GPU, without and with TF32 (`resx.export.gpu_parity`)."""

    gpu: str
    compute_capability: str
    """Such as `8.6`."""
    runtime: str
    """What ran the file, with its version."""
    tf32_off: Parity | None
    tf32_on: Parity | None
    """None, as `tf32_off`, where the file was not run so: an engine in which TF32 can change nothing, or one that was
    built elsewhere."""

    @property
    def steps(self) -> tuple[Parity, ...]:
        """Those that were measured."""
        return tuple(step for step in (self.tf32_off, self.tf32_on) if step is not None)


class FileArguments(FrozenModel):
    """What a third-party .onnx file does not say itself."""

    mean: Channels | None = None
    """Of each channel, for pixels in [0, 1]; None takes what the file says, or ImageNet's."""
    std: Channels | None = None
    labels: str = ""
    """A text file with one label per line; empty where there is none."""
    output: str = ""
    """The output that is exported, of several; empty where the file has one."""


class SourceArguments(FrozenModel):
    """What `load_source` was given: enough to load the same network again where its files are."""

    source: str
    weights: str
    seed: int = Field(ge=0, le=MAX_SEED)
    image_size: ImageSize | None
    settings: tuple[str, ...]
    weights_entry: str = ""
    """Which part of the file of weights to take; empty leaves it to the rule."""
    file: FileArguments = FileArguments()


class Signature(FrozenModel):
    """The one tensor that a file takes and the one it gives, without their batch axis, and what they mean."""

    input_name: str
    input_type: InputType
    input_dims: Dims
    output_name: str
    output_dims: Dims
    batch: BatchSize | None = None
    """The only batch size that the file takes; None: any."""
    labels: Labels = ()
    output_kind: OutputKind = "logits"
    """What the output's numbers are."""
    resize: Resize | None = None
    """How an RGB image is brought to [3, H, W]; None: the input is no image."""
    mean: Channels | None = None
    std: Channels | None = None
    interpolation: Interpolation = "bilinear"
    """The filter that `resize` takes."""

    @pydantic.field_validator("input_name", "output_name")
    @classmethod
    def _can_be_written_elsewhere(cls, name: str) -> str:
        """A file and its card may come from elsewhere, and these go into Triton's configuration and requests."""
        if not is_tensor_name(name):
            raise ValueError(f"'{one_line(name)[:80]}': {TENSOR_RULE}")
        return name

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_older_cards(cls, fields: Any) -> Any:
        """Older cards only tell whether a softmax is in the file."""
        if not isinstance(fields, dict) or "is_probabilities" not in fields:
            return fields
        others = {name: value for name, value in fields.items() if name != "is_probabilities"}
        return {"output_kind": "probabilities" if fields["is_probabilities"] else "logits"} | others

    @pydantic.field_validator("std")
    @classmethod
    def _divides(cls, std: Channels | None) -> Channels | None:
        return std and require_divisors(std)

    @pydantic.model_validator(mode="after")
    def _fits_memory(self) -> Signature:
        require_values(self, max(self.batch or 1, 1))
        return self

    @property
    def num_outputs(self) -> int:
        """Values per row of the output."""
        return math.prod(self.output_dims)

    def as_input(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Return the file's input [N, ...] for bytes of the same shape: pixels, or noise where it takes no images."""
        if self.input_type == "uint8":
            return pixels
        if self.mean is None or self.std is None:
            return (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(64)
        return normalised_pixels(pixels, self.mean, self.std)


def require_values(signature: Signature, num_rows: int) -> None:
    """Check that so many rows of a file's input, and of its output, can be made in memory.

    Raises:
        UsageError: they are too many.
    """
    for what, dims in (("inputs", signature.input_dims), ("outputs", signature.output_dims)):
        if num_rows * math.prod(dims) > MAX_VALUES:
            raise UsageError(
                f"{num_rows} {what} of {list(dims)}: {num_rows * math.prod(dims):.3g} values, where {MAX_VALUES:.3g} "
                "are the most; give a smaller batch"
            )


def signature_of(spec: ModelSpec, input_type: InputType) -> Signature:
    """Return what the file of a network of ours takes and gives."""
    return Signature(
        input_name="image", input_type=input_type, input_dims=(3, spec.image_size, spec.image_size),
        output_name="logits", output_dims=(spec.classes,), labels=spec.labels,
        resize=spec.resize, mean=spec.mean, std=spec.std, interpolation=spec.interpolation,
    )  # fmt: skip


class Normalization(FrozenModel):
    """Who gave the mean and the standard deviation that a third party's float images are normalized with."""

    mean_from: Literal["option", "file", "ImageNet"]
    """--mean, the file's metadata, or nobody: then ImageNet's are assumed."""
    std_from: Literal["option", "file", "ImageNet"]


class Source(FrozenModel):
    """Where the weights came from."""

    kind: Literal["variant", "run", "foreign", "onnx"]
    spec: ModelSpec | None = None
    """What the network is; None: a third-party .onnx file, of which only the signature is known."""
    signature: Signature | None = None
    """Of a third-party file."""
    normalization: Normalization | None = None
    """Of a third-party file that takes float images."""
    weights: str
    """`random (seed 0)`, `imagenet (file name)`, or a file's path as given and what was taken from it:
    `k.pth (entry model_ema)`."""
    weights_sha256: str
    """Of the state dict (names, shapes and bytes, in the order of the names), or of the third-party file."""
    arguments: SourceArguments | None = None
    """None where nobody could name it again."""
    output_kind: OutputKind | None = None
    """What the output is, by answers and graph; None where nobody looked: logits, or as the signature says."""

    @pydantic.model_validator(mode="after")
    def _is_described_once(self) -> Source:
        if (self.spec is None) == (self.signature is None):
            raise ValueError("a source has a spec, or the signature of a third-party file")
        return self

    @property
    def is_random(self) -> bool:
        """Whether nobody trained the weights, so that predictions mean nothing."""
        return _RANDOM.fullmatch(self.weights) is not None

    @property
    def network(self) -> ModelSpec:
        """The spec of a network of PyTorch."""
        assert self.spec is not None, self.kind
        return self.spec

    def signature_with(self, input_type: InputType) -> Signature:
        """Return what a file made of it takes and gives."""
        signature = self.signature or signature_of(self.network, input_type)
        return signature.model_copy(update={"output_kind": self.output_kind or signature.output_kind})


class Canary(FrozenModel):
    """A request with a known answer: how to make its input, and the logits that the model file gave."""

    num_images: BatchSize
    logits: Annotated[tuple[Annotated[tuple[Finite, ...], FailFast()], ...], FailFast()]
    tolerance: float = Field(ge=0, allow_inf_nan=False)
    """Largest accepted difference, times the logits' scale; runtimes differ in the order of sums."""

    @pydantic.model_validator(mode="after")
    def _has_an_answer_for_each(self) -> Canary:
        if len(self.logits) != self.num_images:
            raise ValueError(f"{len(self.logits)} answers for {self.num_images} images")
        return self


class Engine(FrozenModel):
    """How a TensorRT plan or a TensorRT-RTX engine was built, and what was seen of it."""

    builder: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    """Of the builder. A TensorRT plan runs only under this version; Triton's container must have the same."""
    compute_capabilities: tuple[str, ...]
    """Of the GPUs that it is for, such as `8.6`; empty: TensorRT-RTX's own choice, every GPU it is portable to."""
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
    """The same of the built engine, by TensorRT's inspector; empty where no GPU could open it."""
    grouped_in_fp32: tuple[str, ...]
    """Grouped convolutions that were put back to fp32, as the builder refused them in fp16."""
    onnx_sha256: str
    """Of the verified file that it was built from; empty where it was built elsewhere."""
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
    """Part of the power that 8 bits lose in its worst tensor, mean over channels; None where the user asked."""


class Quantisation(FrozenModel):
    """How an int8 file came to be."""

    calibrate: str = ""
    """What was typed: `digits`, a path, `random`; empty for a run's own images."""
    num_asked: int = Field(default=512, ge=1, le=MAX_CALIBRATION_IMAGES)
    """Images that were wanted; there may have been fewer."""
    calibrated_on: str
    data_sha256: str
    """Of the calibration images: shape and bytes."""
    num_images: NumImages
    is_random: bool
    """Whether the images were noise; its ranges say nothing of real images."""
    method: CalibrationMethod
    table_key: str
    """Name of the calibration table in the cache folder: hash of fp32 file, data, method, runtime's version."""
    num_layers: Count
    kept_fp32: tuple[KeptLayer, ...]
    num_tried: Count
    """Files that the search for `kept_fp32` made and measured; 0 if the first one passed."""
    int8_share: float = Field(ge=0, le=1)
    """Share of the network's weight values that are int8."""


class Card(FrozenModel):
    """Everything that is known of a published version."""

    schema_version: Literal[1] = 1
    name: str
    created: str
    """UTC, ISO 8601."""
    command: str
    source: Source
    precision: Precision
    target: Target = "gpu"
    """The runtime that the file's form is for; both compute it. Older cards' files have the GPU's form."""
    accelerator: Accelerator | None = None
    """What its configuration has the server compute it with; None: onnxruntime's own kernels."""
    input: InputType
    max_batch_size: BatchSize
    opset: Count
    num_weights: Count
    fp16_share: float = Field(ge=0, le=1)
    """Share of the file's weight values that are stored in 16 bits, fp16 or bf16."""
    quantisation: Quantisation | None = None
    """Of a file that resx quantized."""
    quantised_before: QuantisedGraph | None = None
    """Of a third-party file that was quantized already; it is published as it is."""
    operators_before: dict[str, Count] = Field(default_factory=dict)
    """Of the network as PyTorch runs it."""
    operators_after: dict[str, Count] = Field(default_factory=dict)
    """Of the file."""
    not_fused: str = ""
    """Why torch.fx could not follow the network's code and batch norms were left to the exporter; else empty."""
    verified: bool
    own_bar: Tolerance | None = None
    """The tolerance that the user set instead of the precision's."""
    verified_on: str
    """The images that the steps were compared on; empty if they were not."""
    steps: tuple[Parity, ...]
    gpu_parity: GpuParity | None = None
    """On the GPU of the machine that exported; None where it had none, or the file is for the CPU."""
    canary: Canary
    engine: Engine | None = None
    """None: the version is an ONNX file."""
    family: Family | None = None
    """Where it is one depth of several of a run."""
    tuning: Tuning | None = None
    """Where `resx tune` chose the configuration that it was published with."""
    files: dict[str, str]
    """SHA-256 of each file of the version but this one."""
    tools: dict[str, str]

    @pydantic.field_validator("name")
    @classmethod
    def _can_be_a_folder(cls, name: str) -> str:
        """A card may come from elsewhere, and its name becomes that of an image endpoint's folders."""
        try:
            return checked_name(name)
        except UsageError as error:
            raise ValueError(str(error)) from error

    @pydantic.field_validator("files")
    @classmethod
    def _lie_beside_the_card(cls, files: dict[str, str]) -> dict[str, str]:
        """A card may come from elsewhere, and its names become paths."""
        for name, digest in files.items():
            try:
                checked_name(name)
            except UsageError as error:
                raise ValueError(str(error)) from error
            if not _SHA256.fullmatch(digest):
                raise ValueError(f"{name}: its SHA-256 must have 64 hexadecimal digits")
        if len({name.lower() for name in files}) < len(files):
            raise ValueError(f"{', '.join(sorted(files))}: two names differ in case alone")
        return files

    @pydantic.model_validator(mode="after")
    def _fits_memory(self) -> Card:
        require_values(self.signature, max(self.canary.num_images, self.signature.batch or self.max_batch_size))
        return self

    @property
    def model_file(self) -> str:
        """The name of the file that computes: ONNX, a TensorRT plan, or an engine of TensorRT for RTX."""
        return "model.onnx" if self.engine is None else ENGINE_FILES[self.engine.builder]

    @property
    def unproved(self) -> str:
        """Why its hashes prove nothing of the file that computes; empty where they do."""
        return "" if self.model_file in self.files else f"card.json does not list {self.model_file} among its files"

    @property
    def signature(self) -> Signature:
        """What the file takes and gives."""
        return self.source.signature_with(self.input)


def canary_input(signature: Signature, num_rows: int) -> npt.NDArray[Any]:
    """Return the canary's input [N, ...], the same bytes on every machine and in every version.

    It comes from SHAKE-256 rather than from a generator whose stream a library may change.
    """
    shape = (num_rows, *signature.input_dims)
    pixels = np.frombuffer(hashlib.shake_256(b"resx canary").digest(math.prod(shape)), dtype=np.uint8)
    return signature.as_input(pixels.reshape(shape))


def normalised_pixels(
    images_NCHW: npt.NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> npt.NDArray[np.float32]:
    """Return (image / 255 - mean) / std as FP32, what a model exported with `--input float32` takes."""
    x_NCHW = images_NCHW.astype(np.float32) / np.float32(255)
    channels = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (mean, std))
    return (x_NCHW - next(channels)) / next(channels)


def canary_difference(canary: Canary, answer: npt.NDArray[np.floating[Any]]) -> float:
    """Return the largest difference from the recorded logits, relative to their scale; inf if not comparable."""
    expected = np.asarray(canary.logits, dtype=np.float64)
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.abs(answer - expected).max() / (np.abs(expected).max() or 1.0))


def flips_text(parity: Parity) -> str:
    """Return how many images changed their class, and how near to a tie those were that are not judged."""
    if parity.num_flips is None:
        return f"top-1 agreement {parity.top1_agreement:.1%}"
    text = f"{parity.num_flips} of {parity.num_images} images change class"
    num_near_ties = parity.num_flips - (parity.num_decided_flips or 0)
    if parity.near_tie_margin is None or not num_near_ties:
        return text
    ties = "a near tie" if num_near_ties == 1 else f"{num_near_ties} near ties"
    return f"{text} ({ties}, margin {100 * parity.near_tie_margin:.2g} % of the bound)"


def tf32_text(card: Card) -> str:
    """Return what a person should know of TF32; empty where there is nothing to say."""
    found = card.gpu_parity and card.gpu_parity.tf32_on
    if not found or found.passed:
        return ""
    return (
        f"with TF32 it differs from its source by more than TF32's tolerance (max {found.max_abs:.3g} at logits up to "
        f"{found.scale:.3g}); leave TF32 off, as resx does; NVIDIA's container has it on for ONNX files (use_tf32)"
    )


def accuracy_text(parity: Parity) -> str:
    """Return what became of accuracy; empty where no classes are known."""
    if parity.accuracy is None or parity.reference_accuracy is None:
        return ""
    return (
        f"accuracy {parity.accuracy:.2%} for {parity.reference_accuracy:.2%} on "
        f"{parity.num_labelled or parity.num_images} images"
    )


def named_source(card: Card, allowed: Collection[str], *, named_in: Path) -> SourceArguments:
    """Return the source that a card names; code only where the user named its module too.

    Args:
        card: perhaps of somebody else's making.
        allowed: modules that the user allowed, by their whole names.
        named_in: the card's file, for the message.

    Raises:
        ExportError: the card names no source.
        UsageError: it names a function of a module that was not allowed. Nothing of it was imported.
    """
    arguments = card.source.arguments
    if arguments is None:
        raise ExportError(f"{card.name}: its card does not say how to load its source; export it again")
    module = module_of(arguments.source)
    if module and module not in allowed:
        raise UsageError(
            f"{named_in}: names code, {arguments.source}, which was not run; if you trust it, add --allow-code {module}"
        )
    return arguments


def read_card(version_folder: Path) -> Card:
    """Read a version's card.

    Raises:
        UsageError: there is none, or it cannot be understood.
    """
    path = version_folder / FILE_NAME
    try:
        text = read_bounded(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; `resx export` writes it with every version") from error
    try:
        return Card.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise UsageError(f"{path}: {explain_fault(error, text, 'export the model again')}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}; export the model again") from error


def schema_text() -> str:
    """Return the JSON schema (draft 2020-12) of card.json, as docs/card.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Card.model_json_schema()
    return json.dumps(schema, indent=2) + "\n"


def write_card(card: Card) -> str:
    """Return the card as the text of `card.json`; the canary's numbers stay on one line each."""
    fields = card.model_dump(mode="json")
    rows = [json.dumps(row) for row in fields["canary"]["logits"]]
    fields["canary"]["logits"] = [f"row {index}" for index in range(len(rows))]
    text = json.dumps(fields, indent=2) + "\n"
    for index, row in enumerate(rows):
        text = text.replace(f'"row {index}"', row, 1)
    return text
