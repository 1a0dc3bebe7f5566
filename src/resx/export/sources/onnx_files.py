"""A third-party .onnx file as a source: what it takes and gives is read from it, and it is its own reference.

The file is not rebuilt: fp32 keeps its graph, with weights that were also inputs (ONNX before IR version 4) made
constants, so that a runtime can fold them. One input, one output (of several, the one that was asked for), no open
axis but the batch.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from resx.card import quantised_graph
from resx.card.kinds import InputType, Precision, Target
from resx.card.origin import FileArguments, Source
from resx.card.quantised_graph import QuantisedGraph
from resx.card.signature import Normalization, Signature
from resx.data.photographs import RealImages, photographs
from resx.errors import ExportError, UsageError, first_line
from resx.export.checks.parity import Logits
from resx.export.checks.random_operations import random_node
from resx.export.checks.row_independence import locate_row_change, rows_changed
from resx.export.graph.onnx_writer import WEIGHTED
from resx.export.sources import onnx_rewriting
from resx.files.listing import read_lines
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import sha256_of
from resx.names import LABEL_RULE, TENSOR_RULE, is_label, is_tensor_name
from resx.runtimes import onnx_reader
from resx.runtimes.onnx_reader import MEAN_KEY, STD_KEY
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel, RowsChanged
from resx.text import one_line
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, Channels

_INPUT_TYPES: dict[int, InputType] = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
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
        """What the file takes and gives."""
        return self.description.signature_with("uint8")

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
                raise UsageError(
                    f"{self.path}: weight {tensor.name} is not finite; a diverged training leaves such files"
                )

    @cached_property
    def quantised(self) -> QuantisedGraph | None:
        """What is quantized in the file already."""
        return quantised_graph.recognise(self.graph)

    def require_convertible(self, precision: Precision) -> None:
        """Check that the file can be brought to the precision; one in fp16 is taken as it is.

        Raises:
            UsageError: bf16, int8 of a file in fp16, or the file is quantized already.
        """
        if precision == "fp32":
            return
        if self.quantised is not None:
            done = "already int8" if self.quantised.computes_in_int8 else "already quantized"
            raise UsageError(
                f"{self.path}: {done}: {self.quantised.text}; leave --{precision} out to publish it as it is, or "
                "export the fp32 original"
            )
        if precision == "bf16":
            raise UsageError(f"--bf16: {self.path} is a finished graph, which cannot be cast; take --fp16 or --int8")
        if precision == "int8" and onnx_reader.weight_counts(self.graph)[1]:
            raise UsageError(f"{self.path}: has 16-bit weights, and int8 is made of fp32; export the fp32 original")

    def folded(self) -> LoadedFile:
        """Return the file: nobody knows of survival factors in it."""
        return self

    def grouped(self) -> LoadedFile:
        """Return the file: its layers are as its maker wrote them."""
        return self

    def rounded(self, precision: Precision) -> None:
        """Return None: a finished graph's layers cannot be rounded one by one."""
        del precision

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
        """Return what the given file answers [N, ...] to bytes of its input's shape.

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
            UsageError: another input type than the file's, or as `require_convertible`.
        """
        del target
        if input_type != self.signature.input_type:
            raise UsageError(
                f"--input {input_type}: {self.path} takes {self.signature.input_type}; leave the option out"
            )
        self.require_convertible(precision)
        model = copy.deepcopy(self.graph)
        if precision == "fp16" and not self.is_half:
            model = onnx_rewriting.half(model, self.path)
        if precision == "int8":
            model = onnx_rewriting.for_int8(model, self.path)
        is_int8 = self.quantised is not None and self.quantised.computes_in_int8
        self.describe(model, "int8" if is_int8 else precision, input_type)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # the checker's and the shape inference's errors have no base of their own
            raise ExportError(f"{self.path}: its {precision} form is not valid ONNX: {first_line(error)}") from error
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


def load_file(path: Path, arguments: FileArguments, *, image_size: int | None, seed: int) -> LoadedFile:
    """Read a file, check that it can be served, and run it once.

    Args:
        path: of the .onnx file; external data lie beside it.
        arguments: what the file does not say.
        image_size: pixels each way, for a file that leaves height and width open.
        seed: of the photographs' crops.

    Raises:
        UsageError: it is no valid ONNX model, or its inputs and outputs cannot be served.
        ExportError: onnxruntime refuses it.
    """
    graph = onnx_reader.read_model(path)
    places = {"input": _places(graph.graph.input), "output": _places(graph.graph.output)}
    if arguments.output:
        onnx_rewriting.keep_output(graph, arguments.output, path)
    image = _only(onnx_reader.given_inputs(graph), path, "input")
    output = _only(graph.graph.output, path, "output")
    _require_name(image.name, path, "input", places["input"][image.name])
    _require_name(output.name, path, "output", places["output"][output.name])
    if image_size is not None:
        _close_size(image, image_size, path)
    onnx_rewriting.require_valid(graph, path)
    onnx_rewriting.make_constants(graph)
    is_cut = len(graph.graph.output) != len(places["output"])  # what is left of it may need fewer inputs
    session = OnnxRuntimeModel(path, content=graph.SerializeToString() if is_cut else None)
    signature = _signature(graph, image, session, path, arguments)
    height_width = signature.input_dims[1:]
    if signature.resize is None:
        real = RealImages(images=np.zeros((0, *signature.input_dims), np.uint8), origin="")
    else:
        real = photographs(*height_width, seed=seed)
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
            normalization=_scaled_by(graph, arguments) if signature.mean else None,
            weights=str(path),
            weights_sha256=sha256,
        ),
        real=real,
    )


def _only(values: Sequence[ValueInfoProto], path: Path, what: str) -> ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(_shown(value.name) for value in values) or "none"
        remedy = "cut it out with onnx.utils.extract_model" if what == "input" else "choose it with --output-name NAME"
        raise UsageError(f"{path}: has {len(values)} {what}s ({names}); resx serves files of one {what}: {remedy}")
    return values[0]


def _places(values: Sequence[ValueInfoProto]) -> dict[str, int]:
    return {value.name: place for place, value in enumerate(values)}


def _require_name(name: str | bytes, path: Path, what: Literal["input", "output"], place: int) -> None:
    if isinstance(name, str) and is_tensor_name(name):
        return
    shown = _shown(name)
    shown = f"{shown[:80]}..." if len(shown) > 80 else shown
    can_be_renamed = name and isinstance(name, str)
    remedy = f"rename it: {_renaming(path, what, place)}" if can_be_renamed else "export the file again with names"
    raise UsageError(f"{path}: {what} '{shown}': {TENSOR_RULE}; {remedy}")


def _shown(name: str | bytes) -> str:
    """Return a name on one line; protobuf gives one that is no UTF-8 as bytes."""
    return one_line(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))


def _renaming(path: Path, what: Literal["input", "output"], place: int) -> str:
    """Return the command that writes a copy with another name, which is a copy of the tensor: no node has to change."""
    tensor, new = f"m.graph.{what}[{place}]", {"input": "image", "output": "logits"}[what]
    if what == "input":
        node = f'm.graph.node.insert(0, onnx.helper.make_node("Identity", ["{new}"], [{tensor}.name]))'
    else:
        node = f'm.graph.node.append(onnx.helper.make_node("Identity", [{tensor}.name], ["{new}"]))'
    code = (
        f'import onnx; m = onnx.load({json.dumps(str(path))}); {node}; {tensor}.name = "{new}"; '
        'onnx.save(m, "renamed.onnx")'
    )
    return f"python -c {shlex.quote(code)}"


def _close_size(image: ValueInfoProto, image_size: int, path: Path) -> None:
    """Fix the open height and width of an image input, and open channels to those of RGB."""
    dims = image.type.tensor_type.shape.dim
    if len(dims) != 4 or any(dim.HasField("dim_value") and dim.dim_value != image_size for dim in dims[2:]):
        raise UsageError(f"--image-size {image_size}: {path} takes {_text(image)}; leave the option out")
    for dim in dims[2:]:
        dim.dim_value = image_size
    if not dims[1].HasField("dim_value"):
        dims[1].dim_value = 3


def _signature(
    graph: ModelProto, image: ValueInfoProto, session: OnnxRuntimeModel, path: Path, arguments: FileArguments
) -> Signature:
    tensor = image.type.tensor_type
    if tensor.elem_type not in _INPUT_TYPES:
        raise UsageError(f"{path}: takes {_text(image)}; resx serves files that take uint8 or float32")
    dims = list(tensor.shape.dim)
    is_open = [not dim.HasField("dim_value") for dim in dims]
    if not dims:
        raise UsageError(f"{path}: input {image.name} has no axes; the first one must be the batch")
    if any(is_open[1:]):
        raise UsageError(
            f"{path}: takes {_text(image)}, open in an axis other than the batch; fix it with --image-size, or with "
            "python -m onnxruntime.tools.make_dynamic_shape_fixed"
        )
    batch = None if is_open[0] else dims[0].dim_value
    input_dims = tuple(dim.dim_value for dim in dims[1:])
    is_image = len(input_dims) == 3 and input_dims[0] == 3
    is_scaled = is_image and tensor.elem_type == TensorProto.FLOAT
    scaling = _scaling(graph, arguments, path) if is_scaled else None
    if not is_scaled and (arguments.mean or arguments.std):
        raise UsageError(f"--mean, --std: {path} takes {_text(image)}, no float image [N, 3, H, W]; leave them out")
    output = _only(graph.graph.output, path, "output")
    if output.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UsageError(f"{path}: gives {_text(output)}; resx serves files that give float32")
    known = Signature(
        input_name=image.name,
        input_type=_INPUT_TYPES[tensor.elem_type],
        input_dims=input_dims,
        output_name=output.name,
        output_dims=(1,),
        batch=batch,
        resize=min(input_dims[1:]) if is_image else None,
        mean=scaling[0] if scaling else None,
        std=scaling[1] if scaling else None,
    )
    output_dims = _measured_dims(graph, session, known, path)
    labels = _labels(arguments.labels, math.prod(output_dims))
    return known.model_copy(update={"output_dims": output_dims, "labels": labels})


def _measured_dims(graph: ModelProto, session: OnnxRuntimeModel, signature: Signature, path: Path) -> tuple[int, ...]:
    """Run the file at the batches it says to take; return the output's shape behind the batch axis.

    Raises:
        UsageError: it fails, or a row has no shape that is always the same.
        ParityError: it gives more or fewer rows than it is asked for.
    """
    shapes = []
    for size in [signature.batch] if signature.batch else [1, 3]:
        rows = np.zeros((size, *signature.input_dims), np.uint8)
        try:
            answer = session.tensor(signature.as_input(rows))
        except ExportError as error:
            raise UsageError(f"{error}; it says that it takes a batch of {size}") from error
        if answer.ndim >= 2 and len(answer) != size:
            raise rows_changed(path.stem, locate_row_change(graph, signature.as_input(rows)))
        if answer.ndim < 2:
            raise UsageError(
                f"{path}: gives {list(answer.shape)} for a batch of {size}; the first axis must be the batch"
            )
        shapes.append(answer.shape[1:])
    if shapes[0] != shapes[-1]:
        raise UsageError(f"{path}: gives {list(shapes[0])} or {list(shapes[-1])} a row, by the batch; it must be one")
    return tuple(int(size) for size in shapes[0])


def _scaling(graph: ModelProto, arguments: FileArguments, path: Path) -> tuple[Channels, Channels]:
    """Return mean and standard deviation: the user's, what an earlier resx wrote into the file, or ImageNet's."""
    return (
        arguments.mean or onnx_reader.written_channels(graph, MEAN_KEY, path) or IMAGENET_MEAN,
        arguments.std or onnx_reader.written_channels(graph, STD_KEY, path) or IMAGENET_STD,
    )


def _scaled_by(graph: ModelProto, arguments: FileArguments) -> Normalization:
    """Return who said so."""
    written = {entry.key for entry in graph.metadata_props}
    return Normalization(
        mean_from="option" if arguments.mean else "file" if MEAN_KEY in written else "ImageNet",
        std_from="option" if arguments.std else "file" if STD_KEY in written else "ImageNet",
    )


def _labels(file: str, num_outputs: int) -> tuple[str, ...]:
    if not file:
        return ()
    try:
        labels = tuple(read_lines(read_bounded(file, MAX_TEXT_BYTES, name="the file of labels")))
    except OSError as error:
        raise UsageError(
            f"--labels {file}: cannot be read ({error.strerror}); give a text file with a label per line"
        ) from error
    except UsageError as error:
        raise UsageError(f"--labels {file}: {error}") from None
    if len(labels) != num_outputs:
        raise UsageError(f"--labels {file}: {len(labels)} labels for {num_outputs} outputs; give one a line")
    if bad := [label for label in labels if not is_label(label, with_tabs=True)]:
        raise UsageError(f"--labels {file}: '{one_line(bad[0][:100])}': {LABEL_RULE}; mend the file")
    return labels


def _text(value: ValueInfoProto) -> str:
    return onnx_reader.tensor_text(value)
