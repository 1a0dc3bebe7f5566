"""From image files to a served model's answer: decode, resize, crop, send, read the labels.

Decoder and geometry are `resx.data.image_decoding`'s; the server's own configuration says the sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.card.image_form import as_float, order_channels
from resx.card.kinds import CHANNEL_ORDERS, LAYOUTS, ChannelOrder, Layout, OutputKind, PixelMax
from resx.card.output_kind import as_shown
from resx.data.image_decoding import check_image_file, load_image, read_image_file
from resx.data.image_geometry import pixels
from resx.errors import ServerError, UsageError
from resx.repository.config_pbtxt import output_kind_of
from resx.repository.image_endpoint import IMAGE
from resx.repository.interface import LAYOUT, MAX_SIDE, Interface, shorten
from resx.serving.client.answers import Prediction
from resx.serving.client.client import TritonClient
from resx.zoo.spec import CROPS, INTERPOLATIONS, Crop, Interpolation

_Word = TypeVar("_Word", bound=str)
IMAGE_TYPES: Final[dict[str, type[np.generic]]] = {"UINT8": np.uint8, "FP32": np.float32, "FP16": np.float16}
"""What images are sent as, by Triton's names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One class for one image."""

    label: str
    index: int
    value: float
    """A probability, or a score where the model's outputs stand for themselves (`resx.card.output_kind`)."""


def load_images(paths: Sequence[Path]) -> ImageFiles:
    """Check the headers of image files, which are then decoded one by one.

    Raises:
        UsageError: as `check_image_file`.
    """
    for path in paths:
        check_image_file(path)
    return ImageFiles(paths)


class ImageFiles(Sequence[Image.Image]):
    """Image files, each decoded to RGB when it is asked for: all of them at once would take gigabytes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...
    @overload
    def __getitem__(self, place: slice) -> ImageFiles: ...
    def __getitem__(self, place: int | slice) -> Image.Image | ImageFiles:
        """Decode one, or return some of the files.

        Raises:
            UsageError: as `load_image`.
        """
        return ImageFiles(self._paths[place]) if isinstance(place, slice) else load_image(self._paths[place])


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """How an image becomes a served model's input, as the model's configuration says."""

    height: int
    width: int
    resize: int
    interpolation: Interpolation
    crop: Crop
    kind: type[np.generic]
    layout: Layout
    channels: ChannelOrder
    pixel_max: PixelMax
    mean_and_std: tuple[tuple[float, ...], ...] = ()
    """Empty for a model that normalises by itself."""

    def as_input(self, pixels_NCHW: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Return the model's input for images of the right size."""
        if not self.mean_and_std:
            return order_channels(pixels_NCHW, self.layout, self.channels)
        prepared = as_float(pixels_NCHW, *self.mean_and_std, pixel_max=self.pixel_max)
        return order_channels(prepared, self.layout, self.channels).astype(self.kind, copy=False)


def preparation_for(interface: Interface) -> Preparation:
    """Return what the configuration says, all of it checked, so that a bulk of images need not begin to find out.

    Raises:
        UsageError: the model takes no RGB images, or the configuration does not say how it wants them.
    """
    height, width = interface.image_size
    if interface.input_type not in IMAGE_TYPES:
        raise UsageError(f"the model takes {interface.input_type}; images can be sent as {' or '.join(IMAGE_TYPES)}")
    normalises = interface.input_type == "UINT8"
    return Preparation(
        height=height,
        width=width,
        resize=_resize(interface),
        interpolation=_word(interface, "resx.interpolation", INTERPOLATIONS),
        crop=_word(interface, "resx.crop", CROPS),
        kind=IMAGE_TYPES[interface.input_type],
        layout=_word(interface, LAYOUT, LAYOUTS),
        channels=_word(interface, "resx.channels", CHANNEL_ORDERS),
        pixel_max=255 if _word(interface, "resx.pixel_max", ("1", "255")) == "255" else 1,
        mean_and_std=() if normalises else tuple(_numbers(interface, key) for key in ("resx.mean", "resx.std")),
    )


def model_input(images: Sequence[Image.Image], interface: Interface, names: Sequence[object] = ()) -> npt.NDArray[Any]:
    """Return images as the served model takes them: UINT8, or normalised FP32 or FP16, in its layout.

    Raises:
        UsageError: as `preparation_for`; or an image is too long and thin, its name first, if names are given.
    """
    how = preparation_for(interface)
    batch = np.stack(
        [
            pixels(
                image,
                height=how.height,
                width=how.width,
                resize=how.resize,
                interpolation=how.interpolation,
                crop=how.crop,
                name=name,
            )
            for image, name in zip(images, names or [""] * len(images), strict=True)
        ]
    )
    return how.as_input(batch)


def classify_files(
    client: TritonClient,
    model: str,
    images: Sequence[Image.Image],
    *,
    top: int,
    version: int | None = None,
    names: Sequence[object] = (),
) -> list[list[Guess]]:
    """Return per image its `top` highest classes, with their probabilities over all classes, or their scores.

    Raises:
        UsageError: the model is not loaded or takes no images; or as `model_input`.
        MissingCapability: no server answers.
    """
    interface = client.interface(model, version)
    size = max(1, interface.max_batch_size)
    kind = output_kind_of(interface.parameters)
    answers: list[list[Guess]] = []
    for start in range(0, len(images), size):
        batch = model_input(images[start : start + size], interface, names[start : start + size])
        num_images = len(batch)
        if interface.fixed_batch:
            batch = np.concatenate([batch, np.repeat(batch[-1:], size - num_images, axis=0)])
        rows = client.classify(model, interface, batch, version)[:num_images]
        answers += [_guesses(row, kind)[:top] for row in rows]
    return answers


def classify_raw_files(client: TritonClient, model: str, paths: Sequence[Path], *, top: int) -> list[list[Guess]]:
    """Return what `classify_files` returns, but send the files as they are: the server decodes and resizes them.

    Raises:
        UsageError: a file is missing or is no image, or the model has no image endpoint there.
    """
    kind = output_kind_of(client.interface(model).parameters)
    answers = []
    for path in paths:
        content = read_image_file(path)
        try:
            predictions = client.classify_file(model + IMAGE, content)
        except ServerError as error:
            if its_own := re.search(r"(file|image) of .*", str(error)):  # preprocess/model.py's
                raise UsageError(f"{path}: {its_own[0]}") from error
            raise
        answers.append(_guesses(predictions, kind)[:top])
    return answers


def _guesses(predictions: Sequence[Prediction], kind: OutputKind) -> list[Guess]:
    (values,) = as_shown(np.array([[prediction.logit for prediction in predictions]]), kind)
    return [
        Guess(label=prediction.label, index=prediction.index, value=float(value))
        for prediction, value in zip(predictions, values, strict=True)
    ]


def _word(interface: Interface, key: str, known: Sequence[_Word]) -> _Word:
    """Return the word of a parameter; the first known one where the configuration has none."""
    word = interface.parameters.get(key, known[0])
    for one in known:
        if word == one:
            return one
    raise UsageError(f"{key} {word!r} in the model's config.pbtxt: resx supports {' or '.join(known)}; export it again")


def _numbers(interface: Interface, key: str) -> tuple[float, ...]:
    text = interface.parameters.get(key)
    if text is None:
        raise UsageError(
            f"the model takes {interface.input_type}, and its config.pbtxt has no {key}, so images cannot be "
            "normalized; set resx.mean and resx.std there, or `resx export FILE.onnx --mean R,G,B --std R,G,B`"
        )
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or (key == "resx.std" and not all(numbers)):
        raise UsageError(
            f"{key}={shorten(text)!r} in the model's config.pbtxt: give three numbers, as in 0.485,0.456,0.406"
        )
    return numbers


def _resize(interface: Interface) -> int:
    height, width = interface.image_size
    text = interface.parameters.get("resx.resize", str(min(height, width)))
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MAX_SIDE):
        raise UsageError(
            f"resx.resize={shorten(text)!r} in the model's config.pbtxt: give the pixels of the shorter side, "
            f"1 to {MAX_SIDE}"
        )
    return int(text)
