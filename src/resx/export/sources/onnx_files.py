"""A third-party .onnx file as a source: what it takes and gives is read from it, and it is its own reference.

The file is not rebuilt: fp32 keeps its graph, with weights that were also inputs (ONNX before IR version 4) made
constants, so that a runtime can fold them. One input, one output (of several, the one that was asked for), no open
axis but the batch.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto

from resx.card import quantised_graph
from resx.card.kinds import InputType, Precision, Target
from resx.card.origin import FileArguments, HeightWidth, Source
from resx.card.quantised_graph import QuantisedGraph
from resx.card.signature import Signature
from resx.data.photographs import RealImages, photographs
from resx.errors import ExportError, UsageError, first_line
from resx.export.checks.parity import Logits
from resx.export.checks.random_operations import random_node
from resx.export.checks.row_independence import locate_row_change, rows_changed
from resx.export.graph.onnx_writer import WEIGHTED
from resx.export.sources import image_front, image_layout, onnx_interface, onnx_rewriting
from resx.export.sources.onnx_interface import Side
from resx.export.sources.onnx_rounding import round_file
from resx.files.staging import sha256_of
from resx.runtimes import onnx_reader
from resx.runtimes.answers import RowsChanged
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.runtimes.openvino_model import OpenVinoModel

_WEIGHTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True, kw_only=True)
class LoadedFile:
    """An .onnx file, and real images to check what is made of it on."""

    name: str
    """The default name of what is exported from it."""
    path: Path
    graph: ModelProto
    """The file with its external data inside and its initializers as constants, cut to the output that is exported."""
    session: OnnxRuntimeModel
    """The given file, opened: the reference."""
    description: Source
    real: RealImages
    labelled: None = None
    """No classes are known."""

    @property
    def signature(self) -> Signature:
        """What the file takes and gives by itself."""
        assert self.description.signature is not None
        return self.description.signature

    @property
    def size_bytes(self) -> int:
        """Of the graph and its weights."""
        return self.graph.ByteSize()

    def require_finite(self) -> None:
        """Check that every weight is a number.

        Raises:
            UsageError: one is not.
        """
        for tensor in self.graph.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor) if tensor.data_type in _WEIGHTS else np.zeros(1)
            if not np.isfinite(values.astype(np.float64)).all():
                raise UsageError(f"{self.path}: weight {tensor.name} is not finite (the training may have diverged)")

    @cached_property
    def quantised(self) -> QuantisedGraph | None:
        """What is quantized in the file already."""
        return quantised_graph.recognise(self.graph)

    def require_convertible(self, precision: Precision, *, stored_in: Precision) -> None:
        """Check that the file can be brought to the precision; one in fp16 is taken as it is.

        Args:
            precision: that it is to be computed in.
            stored_in: of the file that is written.

        Raises:
            UsageError: it would be stored in bf16, bf16 or int8 are asked of a file in fp16, or it is quantized
                already.
        """
        if precision == "fp32":
            return
        if self.quantised is not None:
            done = "already int8" if self.quantised.computes_in_int8 else "already quantized"
            raise UsageError(
                f"{self.path}: {done}: {self.quantised.text}; remove --{precision} to publish it unchanged, or export "
                "the fp32 original"
            )
        if stored_in == "bf16":
            raise UsageError(
                f"--bf16: {self.path} is an ONNX file, which resx does not cast to bf16; use --fp16 or --int8, or "
                "--target cpu, where OpenVINO computes the fp32 file in bf16"
            )
        if precision in ("bf16", "int8") and onnx_reader.weight_counts(self.graph)[1]:
            raise UsageError(
                f"{self.path}: has 16-bit weights, and {precision} is made of fp32; export the fp32 original"
            )

    def require_openvino(self) -> None:
        """Check that OpenVINO knows the file's operators.

        Raises:
            ExportError: it does not.
            MissingCapability: it is not installed.
        """
        OpenVinoModel(self.path, content=self.graph.SerializeToString())

    def folded(self) -> LoadedFile:
        """Return the file: nobody knows of survival factors in it."""
        return self

    def grouped(self) -> LoadedFile:
        """Return the file: its layers are as its maker wrote them."""
        return self

    def rounded(self, precision: Precision) -> LoadedFile | None:
        """Return the file with its weights and what its nodes give rounded, to be asked and no more; None for bf16.

        No file is stored in bf16: where OpenVINO rounds is its own affair.
        """
        if precision != "fp16":
            return None
        model = round_file(self.graph)
        return replace(self, session=OnnxRuntimeModel(self.path, content=model.SerializeToString()))

    @property
    def computes_in(self) -> Precision:
        """The precision that the file's answers are rounded to; fp32 where ranges are the batch's (dynamic int8)."""
        if self.quantised is not None and self.quantised.computes_in_int8 and not self.quantised.is_dynamic:
            return "int8"
        return "fp16" if self.is_half else "fp32"

    @property
    def num_layers(self) -> int:
        """Nodes with weights."""
        return sum(node.op_type in WEIGHTED for node in self.graph.graph.node)

    def random_operation(self, images: npt.NDArray[np.uint8]) -> str:
        """Return which node draws random numbers for the output; empty if none does."""
        del images
        return random_node(self.graph)

    def logits(self, images: npt.NDArray[np.uint8]) -> Logits:
        """Return what the given file answers [N, ...] to pixels, or bytes of its input's shape (`pixel_dims`).

        Raises:
            ParityError: it gives more or fewer rows than it is asked for.
        """
        given = self.signature.as_input(images)
        try:
            return self.session(given)
        except RowsChanged:
            raise rows_changed(self.name, locate_row_change(self.graph, given)) from None

    def write(self, path: Path, precision: Precision, input_type: InputType, target: Target) -> ModelProto:
        """Write the file in the precision (int8 begins with fp32); the same graph serves both targets.

        Raises:
            ExportError: it cannot be converted.
            UsageError: an input type that the file cannot have, or as `require_convertible`.
        """
        del target
        taken = self.description.signature_with(input_type)
        if input_type != taken.input_type:
            raise UsageError(f"--input {input_type}: {self.path} takes {self.signature.input_type}; remove the option")
        self.require_convertible(precision, stored_in=precision)
        model = copy.deepcopy(self.graph)
        if precision == "fp16" and not self.is_half:
            model = onnx_rewriting.half(model, self.path)
        if precision == "int8":
            model = onnx_rewriting.for_int8(model, self.path)
        if taken.input_name != self.signature.input_name:
            model = image_front.put_in_front(model, self.signature, taken, self.path)
        is_int8 = self.quantised is not None and self.quantised.computes_in_int8
        self.describe(model, "int8" if is_int8 else precision, input_type)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # the checker's and the shape inference's errors have no base of their own
            raise ExportError(f"{self.path}: its {precision} version is not valid ONNX: {first_line(error)}") from error
        onnx_reader.write_model(model, path)
        return model

    @property
    def is_half(self) -> bool:
        """Whether most of the weights have 16 bits already."""
        num_weights, num_half = onnx_reader.weight_counts(self.graph)
        return 2 * num_half > num_weights

    def describe(self, model: ModelProto, precision: Precision, input_type: InputType) -> None:
        """Write into a file made of this one what it is; what its maker wrote stays."""
        known = {entry.key: entry.value for entry in model.metadata_props}
        of_resx = {"resx.name": self.name, "resx.precision": precision, "resx.input": input_type}
        of_resx["resx.source_sha256"] = self.description.weights_sha256
        onnx.helper.set_model_props(model, known | of_resx)

    def not_fused(self) -> str:
        """Return nothing: a file is taken as it is."""
        return ""

    def operators(self) -> dict[str, int]:
        """Count the operators of the given file."""
        return onnx_reader.operators(self.graph)


def load_file(path: Path, arguments: FileArguments, *, image_size: int | HeightWidth | None, seed: int) -> LoadedFile:
    """Read a file, check that it can be served, and run it once.

    Args:
        path: of the .onnx file; external data lie beside it.
        arguments: what the file does not say.
        image_size: pixels each way, or height and width, for a file that leaves them open.
        seed: of the photographs' crops.

    Raises:
        UsageError: it is no valid ONNX model, or its inputs and outputs cannot be served.
        ExportError: onnxruntime refuses it.
    """
    graph = onnx_reader.read_model(path)
    places: dict[Side, dict[str, int]] = {
        "input": {value.name: place for place, value in enumerate(graph.graph.input)},
        "output": {value.name: place for place, value in enumerate(graph.graph.output)},
    }
    if arguments.output:
        onnx_rewriting.keep_output(graph, arguments.output, path)
    image, _ = onnx_interface.find_tensors(graph, path, places)
    layout = image_layout.find_layout(image, path, arguments, has_size=image_size is not None)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        image_layout.close_size(image, size, path, layout or "nchw")
    onnx_rewriting.require_valid(graph, path)
    onnx_rewriting.make_constants(graph)
    is_cut = len(graph.graph.output) != len(places["output"])  # what is left of it may need fewer inputs
    session = OnnxRuntimeModel(path, content=graph.SerializeToString() if is_cut else None)
    signature = onnx_interface.read_signature(graph, image, session, path, arguments, layout)
    if signature.resize is None:
        real = RealImages(images=np.zeros((0, *signature.input_dims), np.uint8), origin="")
    else:
        real = photographs(*signature.pixel_dims[1:], seed=seed)
    files = onnx_reader.files_of(path)
    sha256 = sha256_of(path)
    if len(files) > 1:  # the weights lie beside the graph
        sha256 = hashlib.sha256("\n".join(sha256_of(file) for file in files).encode()).hexdigest()
    return LoadedFile(
        name=path.stem,
        path=path,
        graph=graph,
        session=session,
        description=Source(
            kind="onnx",
            signature=signature,
            normalization=image_layout.say_scaling(graph, arguments) if signature.mean else None,
            weights=str(path),
            weights_sha256=sha256,
        ),
        real=real,
    )
