"""What a third-party .onnx file takes and gives: read from its graph, checked, and measured by running it once."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from resx.card.kinds import InputType, Layout
from resx.card.origin import FileArguments
from resx.card.signature import Signature
from resx.errors import ExportError, UsageError
from resx.export.checks.row_independence import locate_row_change, rows_changed
from resx.export.sources import image_layout
from resx.files.listing import read_lines
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.names import LABEL_RULE, TENSOR_RULE, is_label, is_tensor_name
from resx.runtimes import onnx_reader
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.text import one_line

Side: TypeAlias = Literal["input", "output"]

_INPUT_TYPES: dict[int, InputType] = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}


def find_tensors(
    graph: ModelProto, path: Path, places: Mapping[Side, Mapping[str, int]]
) -> tuple[ValueInfoProto, ValueInfoProto]:
    """Return the one input, weights aside, and the one output.

    Args:
        graph: of the file, with the output alone that is exported.
        path: of the file, for messages.
        places: of the names among all that the file has.

    Raises:
        UsageError: there are more or none, or a name cannot be put into other formats.
    """
    values: dict[Side, Sequence[ValueInfoProto]] = {
        "input": onnx_reader.given_inputs(graph),
        "output": graph.graph.output,
    }
    for side, found in values.items():
        if len(found) != 1:
            names = ", ".join(_shown(value.name) for value in found) or "none"
            remedy = (
                "cut it out with onnx.utils.extract_model" if side == "input" else "choose it with --output-name NAME"
            )
            raise UsageError(f"{path}: has {len(found)} {side}s ({names}); resx serves files of one {side}: {remedy}")
    for side, (value,) in values.items():
        _require_name(value.name, path, side, places[side][value.name])
    return values["input"][0], values["output"][0]


def _require_name(name: str | bytes, path: Path, side: Side, place: int) -> None:
    if isinstance(name, str) and is_tensor_name(name):
        return
    shown = _shown(name)
    shown = f"{shown[:80]}..." if len(shown) > 80 else shown
    can_be_renamed = name and isinstance(name, str)
    remedy = f"rename it: {_renaming(path, side, place)}" if can_be_renamed else "export the file again with names"
    raise UsageError(f"{path}: {side} '{shown}': {TENSOR_RULE}; {remedy}")


def _shown(name: str | bytes) -> str:
    """Return a name on one line; protobuf gives one that is no UTF-8 as bytes."""
    return one_line(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))


def _renaming(path: Path, side: Side, place: int) -> str:
    """Return the command that writes a copy with another name, which is a copy of the tensor: no node has to change."""
    tensor, new = f"m.graph.{side}[{place}]", {"input": "image", "output": "logits"}[side]
    if side == "input":
        node = f'm.graph.node.insert(0, onnx.helper.make_node("Identity", ["{new}"], [{tensor}.name]))'
    else:
        node = f'm.graph.node.append(onnx.helper.make_node("Identity", [{tensor}.name], ["{new}"]))'
    code = (
        f'import onnx; m = onnx.load({json.dumps(str(path))}); {node}; {tensor}.name = "{new}"; '
        'onnx.save(m, "renamed.onnx")'
    )
    return f"python -c {shlex.quote(code)}"


def read_signature(
    graph: ModelProto,
    image: ValueInfoProto,
    session: OnnxRuntimeModel,
    path: Path,
    arguments: FileArguments,
    layout: Layout | None,
) -> Signature:
    """Return what the file takes and gives, a row's output as it comes when it is run.

    Args:
        graph: of the file.
        image: its input.
        session: the file, opened.
        path: of the file, for messages.
        arguments: what the file does not say.
        layout: of the input; None where it is no image.

    Raises:
        UsageError: its types or axes cannot be served, it fails when it is run, or the labels do not fit.
        ParityError: it gives more or fewer rows than it is asked for.
    """
    output, tensor = graph.graph.output[0], image.type.tensor_type
    dims = onnx_reader.declared_dims(image)
    _require_served(image, output, path)
    image_layout.require_fitting(image, path, arguments, is_image=layout is not None)
    input_dims = tuple(size for size in dims[1:] if size is not None)
    is_scaled = layout is not None and tensor.elem_type == TensorProto.FLOAT
    scaling = image_layout.find_scaling(graph, arguments, path) if is_scaled else None
    known = Signature(
        input_name=image.name,
        input_type=_INPUT_TYPES[tensor.elem_type],
        input_dims=input_dims,
        output_name=output.name,
        output_dims=(1,),
        batch=dims[0],
        resize=None if layout is None else min(input_dims[:2] if layout == "nhwc" else input_dims[1:]),
        mean=scaling[0] if scaling else None,
        std=scaling[1] if scaling else None,
        layout=layout or "nchw",
        channels=arguments.channels,
        pixel_max=arguments.pixel_max,
    )
    output_dims = _measured_dims(graph, session, known, path)
    labels = read_labels(arguments.labels, math.prod(output_dims))
    return known.model_copy(update={"output_dims": output_dims, "labels": labels})


def _require_served(image: ValueInfoProto, output: ValueInfoProto, path: Path) -> None:
    taken, given = onnx_reader.tensor_text(image), onnx_reader.tensor_text(output)
    dims = onnx_reader.declared_dims(image)
    if image.type.tensor_type.elem_type not in _INPUT_TYPES:
        raise UsageError(f"{path}: the input is {taken}; resx serves files with a uint8 or float32 input")
    if not dims:
        raise UsageError(f"{path}: input {image.name} is a scalar; its first axis must be the batch")
    if None in dims[1:]:
        raise UsageError(
            f"{path}: takes {taken}, with a dynamic axis besides the batch; set --image-size HxW, or fix it with "
            "python -m onnxruntime.tools.make_dynamic_shape_fixed"
        )
    if output.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UsageError(f"{path}: the output is {given}; resx serves files with a float32 output")


def _measured_dims(graph: ModelProto, session: OnnxRuntimeModel, signature: Signature, path: Path) -> tuple[int, ...]:
    """Run the file at the batches it says to take; return the output's shape behind the batch axis.

    Raises:
        UsageError: it fails, or a row has no shape that is always the same.
        ParityError: it gives more or fewer rows than it is asked for.
    """
    shapes = []
    for size in [signature.batch] if signature.batch else [1, 3]:
        rows = np.zeros((size, *signature.pixel_dims), np.uint8)
        try:
            answer = session.tensor(signature.as_input(rows))
        except ExportError as error:
            raise UsageError(f"{error}; it declares a batch of {size}") from error
        if answer.ndim >= 2 and len(answer) != size:
            raise rows_changed(path.stem, locate_row_change(graph, signature.as_input(rows)))
        if answer.ndim < 2:
            raise UsageError(
                f"{path}: gives {list(answer.shape)} for a batch of {size}; the first axis must be the batch"
            )
        shapes.append(answer.shape[1:])
    if shapes[0] != shapes[-1]:
        raise UsageError(
            f"{path}: gives {list(shapes[0])} or {list(shapes[-1])} per row depending on the batch; it must be the same"
        )
    return tuple(int(size) for size in shapes[0])


def read_labels(file: str, num_outputs: int) -> tuple[str, ...]:
    """Return the labels of a file that the user named, one a line; none without a file.

    Raises:
        UsageError: it cannot be read, or its lines are not a label for each output.
    """
    if not file:
        return ()
    try:
        labels = tuple(read_lines(read_bounded(file, MAX_TEXT_BYTES, name="the file of labels")))
    except OSError as error:
        raise UsageError(
            f"--labels {file}: cannot be read ({error.strerror}); give a text file with one label per line"
        ) from error
    except UsageError as error:
        raise UsageError(f"--labels {file}: {error}") from None
    if len(labels) != num_outputs:
        raise UsageError(f"--labels {file}: {len(labels)} labels for {num_outputs} outputs; write one label per line")
    if bad := [label for label in labels if not is_label(label, with_tabs=True)]:
        raise UsageError(f"--labels {file}: '{one_line(bad[0][:100])}': {LABEL_RULE}; fix the file")
    return labels
