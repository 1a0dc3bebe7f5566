"""The card: what a published version is, where it came from, and the proof that it computes the same.

`card.json` lies beside the model file. It is written before publication and never changed. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeAlias

import pydantic
from pydantic import Field

from resx.card.canary_rows import Canary
from resx.card.depth_family import Family
from resx.card.kinds import _SHA256, BatchSize, Count, InputType, Precision, Target
from resx.card.origin import Source, SourceArguments
from resx.card.parity_result import GpuParity, Parity, Tolerance
from resx.card.precision import Engine, Quantisation
from resx.card.quantised_graph import QuantisedGraph
from resx.card.runtime import Runtime, RuntimeName
from resx.card.signature import Signature, require_values
from resx.card.tuning import Tuning
from resx.errors import ExportError, UsageError
from resx.files.json_faults import explain_fault
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.names import checked_name
from resx.values import FrozenModel
from resx.zoo.catalog import module_of

FILE_NAME = "card.json"
ENGINE_FILES = {"tensorrt": "model.plan", "tensorrt_rtx": "model.engine"}
IR_FILES = ("model.xml", "model.bin")
"""OpenVINO's own format: the graph, which is the file that is named, and the weights beside it."""
Accelerator: TypeAlias = Literal["tensorrt"]
"""What computes an ONNX file in place of the runtime's own kernels: TensorRT, inside onnxruntime."""
ACCELERATORS: tuple[Accelerator, ...] = ("tensorrt",)


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
    runtime: Runtime | None = None
    """What computes its ONNX file or IR on the CPU; None in older cards, which were made for onnxruntime, and for
    engines."""
    input: InputType
    max_batch_size: BatchSize
    opset: Count
    num_weights: Count
    fp16_share: float = Field(ge=0, le=1)
    """Share of the file's weight values that are stored in 16 bits, fp16 or bf16."""
    quantisation: Quantisation | None = None
    """Quantization of a file that resx quantized."""
    quantised_before: QuantisedGraph | None = None
    """Quantization of a third-party file that was quantized already; it is published as it is."""
    operators_before: dict[str, Count] = Field(default_factory=dict)
    """Operators of the network in PyTorch."""
    operators_after: dict[str, Count] = Field(default_factory=dict)
    """Operators of the file."""
    not_fused: str = ""
    """Why torch.fx could not follow the network's code and batch norms were left to the exporter; else empty."""
    verified: bool
    own_bar: Tolerance | None = None
    """Tolerance that the user set instead of the precision's."""
    verified_on: str
    """The images that the steps were compared on; empty if they were not."""
    steps: tuple[Parity, ...]
    gpu_parity: GpuParity | None = None
    """Parity on the exporting machine's GPU; None without a GPU, or for a CPU file."""
    canary: Canary
    int8_rows: Canary | None = None
    """Of an int8 version: more rows, to be asked again on processors with other 8-bit instructions. None in older cards
    and where the input is no image."""
    engine: Engine | None = None
    """None: the version is an ONNX file."""
    family: Family | None = None
    """Family that this version is one depth of."""
    tuning: Tuning | None = None
    """How `resx tune` chose the configuration."""
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
            raise ValueError(f"{', '.join(sorted(files))}: two names differ only in case")
        return files

    @pydantic.model_validator(mode="after")
    def _fits_memory(self) -> Card:
        require_values(self.signature, max(self.canary.num_images, self.signature.batch or self.max_batch_size))
        return self

    @property
    def model_file(self) -> str:
        """The name of the file that computes: ONNX, OpenVINO's IR, a TensorRT plan, or TensorRT for RTX's engine."""
        if self.engine is not None:
            return ENGINE_FILES[self.engine.builder]
        return IR_FILES[0] if self.runtime_name == "openvino" and IR_FILES[0] in self.files else "model.onnx"

    @property
    def runtime_name(self) -> RuntimeName:
        """What computes its file on the CPU."""
        return "onnxruntime" if self.runtime is None else self.runtime.name

    @property
    def unproved(self) -> str:
        """Why its hashes prove nothing of the file that computes; empty where they do."""
        wanted = IR_FILES if self.model_file == IR_FILES[0] else (self.model_file,)
        missing = [name for name in wanted if name not in self.files]
        return f"card.json does not list {missing[0]} among its files" if missing else ""

    @property
    def signature(self) -> Signature:
        """What the file takes and gives."""
        return self.source.signature_with(self.input)


def tf32_text(card: Card) -> str:
    """Return what a person should know of TF32; empty where there is nothing to say."""
    found = card.gpu_parity and card.gpu_parity.tf32_on
    if not found or found.passed:
        return ""
    return (
        f"with TF32 it differs from its source by more than TF32's tolerance (max {found.max_abs:.3g} at logits up to "
        f"{found.scale:.3g}); leave TF32 off, as resx does; NVIDIA's container has it on for ONNX files (use_tf32)"
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
        raise ExportError(f"{card.name}: its card does not record how to load its source; export it again")
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
        raise UsageError(f"{path}: {error.strerror}; `resx export` writes a card with every version") from error
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
    kept = [fields[name] for name in ("canary", "int8_rows") if fields[name] is not None]
    rows = [json.dumps(row) for one in kept for row in one["logits"]]
    names = iter(f"row {index}" for index in range(len(rows)))
    for one in kept:
        one["logits"] = [next(names) for _ in one["logits"]]
    text = json.dumps(fields, indent=2) + "\n"
    for index, row in enumerate(rows):
        text = text.replace(f'"row {index}"', row, 1)
    return text
