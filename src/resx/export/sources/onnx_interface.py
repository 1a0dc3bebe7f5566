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

from resx.card.kinds import InputType
from resx.card.origin import FileArguments
from resx.card.signature import Normalization, Signature
from resx.errors import ExportError, UsageError
from resx.export.checks.row_independence import locate_row_change, rows_changed
from resx.files.listing import read_lines
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.names import LABEL_RULE, TENSOR_RULE, is_label, is_tensor_name
from resx.runtimes import onnx_reader
from resx.runtimes.onnx_reader import MEAN_KEY, STD_KEY
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.text import one_line
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, Channels

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


def close_size(image: ValueInfoProto, image_size: int, path: Path) -> None:
    """Fix the open height and width of an image input, and open channels to those of RGB.

    Raises:
        UsageError: it is no image, or has another size.
    """
    dims = image.type.tensor_type.shape.dim
    if len(dims) != 4 or any(dim.HasField("dim_value") and dim.dim_value != image_size for dim in dims[2:]):
        raise UsageError(f"--image-size {image_size}: {path} takes {onnx_reader.tensor_text(image)}; remove the option")
    for dim in dims[2:]:
        dim.dim_value = image_size
    if not dims[1].HasField("dim_value"):
        dims[1].dim_value = 3


def read_signature(
    graph: ModelProto, image: ValueInfoProto, session: OnnxRuntimeModel, path: Path, arguments: FileArguments
) -> Signature:
    """Return what the file takes and gives, a row's output as it comes when it is run.

    Raises:
        UsageError: its types or axes cannot be served, it fails when it is run, or the labels do not fit.
        ParityError: it gives more or fewer rows than it is asked for.
    """
    output, tensor = graph.graph.output[0], image.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    is_image = len(dims) == 4 and dims[1] == 3
    is_scaled = is_image and tensor.elem_type == TensorProto.FLOAT
    taken, given = onnx_reader.tensor_text(image), onnx_reader.tensor_text(output)
    faults = (
        (
            tensor.elem_type not in _INPUT_TYPES,
            f"{path}: takes {taken}; resx serves files that take uint8 or float32",
        ),
        (not dims, f"{path}: input {image.name} is a scalar; its first axis must be the batch"),
        (
            None in dims[1:],
            f"{path}: takes {taken}, with a dynamic axis besides the batch; set --image-size, or fix it with python -m "
            "onnxruntime.tools.make_dynamic_shape_fixed",
        ),
        (
            not is_scaled and bool(arguments.mean or arguments.std),
            f"--mean, --std: {path} takes {taken}, not a float image [N, 3, H, W]; remove them",
        ),
        (
            output.type.tensor_type.elem_type != TensorProto.FLOAT,
            f"{path}: gives {given}; resx serves files that give float32",
        ),
    )
    for is_so, fault in faults:
        if is_so:
            raise UsageError(fault)
    input_dims = tuple(size for size in dims[1:] if size is not None)
    scaling = _scaling(graph, arguments, path) if is_scaled else None
    known = Signature(
        input_name=image.name,
        input_type=_INPUT_TYPES[tensor.elem_type],
        input_dims=input_dims,
        output_name=output.name,
        output_dims=(1,),
        batch=dims[0],
        resize=min(input_dims[1:]) if is_image else None,
        mean=scaling[0] if scaling else None,
        std=scaling[1] if scaling else None,
    )
    output_dims = _measured_dims(graph, session, known, path)
    labels = read_labels(arguments.labels, math.prod(output_dims))
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


def _scaling(graph: ModelProto, arguments: FileArguments, path: Path) -> tuple[Channels, Channels]:
    """Return mean and standard deviation: the user's, what an earlier resx wrote into the file, or ImageNet's."""
    return (
        arguments.mean or onnx_reader.written_channels(graph, MEAN_KEY, path) or IMAGENET_MEAN,
        arguments.std or onnx_reader.written_channels(graph, STD_KEY, path) or IMAGENET_STD,
    )


def say_scaling(graph: ModelProto, arguments: FileArguments) -> Normalization:
    """Return who said which mean and standard deviation normalise the input."""
    written = {entry.key for entry in graph.metadata_props}
    return Normalization(
        mean_from="option" if arguments.mean else "file" if MEAN_KEY in written else "ImageNet",
        std_from="option" if arguments.std else "file" if STD_KEY in written else "ImageNet",
    )


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
