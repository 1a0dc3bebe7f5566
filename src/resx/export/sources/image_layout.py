"""The image that a third party's file takes: which axes are which, how large it is, and what its numbers are.

    [N, 3, H, W]  channels first, as PyTorch writes them       nchw
    [N, H, W, 3]  channels last, as TensorFlow writes them     nhwc

Where the user does not say, the shape does. The order of the channels and what white is stand in no file: without the
user's word they are RGB and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto

from resx.card.kinds import Layout
from resx.card.origin import FileArguments, HeightWidth
from resx.card.signature import Normalization
from resx.errors import UsageError
from resx.runtimes import onnx_reader
from resx.runtimes.onnx_reader import MEAN_KEY, STD_KEY
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, Channels

_AXES: dict[Layout, tuple[int, int, int]] = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}
"""Of channels, height and width."""
_SHAPES: dict[Layout, str] = {"nchw": "[N, 3, H, W]", "nhwc": "[N, H, W, 3]"}
_NUM_CHANNELS = 3
_LARGEST_OF_UNIT = 1.0


def find_layout(image: ValueInfoProto, path: Path, arguments: FileArguments, *, has_size: bool) -> Layout | None:
    """Return where the channels of a file's input lie; None: it is no RGB image.

    Args:
        image: the input.
        path: of the file, for messages.
        arguments: what the user says of it.
        has_size: whether --image-size says that it is one.

    Raises:
        UsageError: its shape is not what the user says.
    """
    dims = onnx_reader.declared_dims(image)
    given = arguments.layout
    if given is None:
        return _guess(dims, has_size=has_size)
    if len(dims) != 4 or dims[_AXES[given][0]] not in (_NUM_CHANNELS, None):
        raise UsageError(
            f"--layout {given}: {path} takes {onnx_reader.tensor_text(image)}, not {_SHAPES[given]}; remove the option"
        )
    return given


def _guess(dims: Sequence[int | None], *, has_size: bool) -> Layout | None:
    if len(dims) != 4:
        return None
    for layout, (channels, *_) in _AXES.items():
        if dims[channels] == _NUM_CHANNELS:
            return layout
    return "nchw" if has_size and dims[1] is None else None


def close_size(image: ValueInfoProto, size: HeightWidth, path: Path, layout: Layout) -> None:
    """Fix the open height and width of an image input, and open channels to those of RGB.

    Raises:
        UsageError: it is no image, or has another size.
    """
    dims = image.type.tensor_type.shape.dim
    channels, *sides = _AXES[layout]
    if len(dims) != 4 or any(
        dims[axis].HasField("dim_value") and dims[axis].dim_value != side
        for axis, side in zip(sides, size, strict=True)
    ):
        raise UsageError(
            f"--image-size {size_text(size)}: {path} takes {onnx_reader.tensor_text(image)}; remove the option"
        )
    for axis, side in zip(sides, size, strict=True):
        dims[axis].dim_value = side
    if not dims[channels].HasField("dim_value"):
        dims[channels].dim_value = _NUM_CHANNELS


def size_text(size: HeightWidth | int) -> str:
    """Return a size as --image-size takes it."""
    if isinstance(size, int):
        return str(size)
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


def require_fitting(image: ValueInfoProto, path: Path, arguments: FileArguments, *, is_image: bool) -> None:
    """Check what the user says of the numbers in the input.

    Raises:
        UsageError: the input is no image, or none of float, or the mean is of other numbers than the input's.
    """
    taken = onnx_reader.tensor_text(image)
    if not is_image and arguments.channels != "rgb":
        raise UsageError(f"--channels: {path} takes {taken}, not an RGB image; remove it")
    is_scaled = is_image and image.type.tensor_type.elem_type == TensorProto.FLOAT
    if not is_scaled and (arguments.mean or arguments.std or arguments.pixel_max != 1):
        raise UsageError(
            f"--mean, --std, --pixel-max: {path} takes {taken}, not a float image {_SHAPES['nchw']} or "
            f"{_SHAPES['nhwc']}; remove them"
        )
    if arguments.pixel_max == 1 and max(map(abs, arguments.mean or (0.0,))) > _LARGEST_OF_UNIT:
        numbers = ",".join(f"{value:g}" for value in arguments.mean or ())
        raise UsageError(
            f"--mean {numbers}: above 1, but white is 1 in the input; add --pixel-max 255 if the mean is of pixels "
            "from 0 to 255, or divide it by 255"
        )


def find_scaling(graph: ModelProto, arguments: FileArguments, path: Path) -> tuple[Channels, Channels]:
    """Return mean and standard deviation: the user's, what an earlier resx wrote into the file, or the usual ones."""
    mean, std = arguments.mean, arguments.std
    if arguments.pixel_max != 1:
        return mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0)
    return (
        mean or onnx_reader.written_channels(graph, MEAN_KEY, path) or IMAGENET_MEAN,
        std or onnx_reader.written_channels(graph, STD_KEY, path) or IMAGENET_STD,
    )


def say_scaling(graph: ModelProto, arguments: FileArguments) -> Normalization:
    """Return who said which mean and standard deviation normalise the input."""
    if arguments.pixel_max != 1:
        return Normalization(
            mean_from="option" if arguments.mean else "none", std_from="option" if arguments.std else "none"
        )
    written = {entry.key for entry in graph.metadata_props}
    return Normalization(
        mean_from="option" if arguments.mean else "file" if MEAN_KEY in written else "ImageNet",
        std_from="option" if arguments.std else "file" if STD_KEY in written else "ImageNet",
    )
