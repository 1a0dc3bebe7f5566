"""From image files to a served model's answer: decode, resize, crop, send, read the labels.

The geometry is `resx.export.images`'s; the server's own configuration says the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from resx.errors import ServerError, UsageError
from resx.export.card import normalised_pixels
from resx.export.images import load_image, pixels
from resx.serving.client import Interface, Prediction, TritonClient
from resx.serving.image_endpoint import IMAGE
from resx.serving.triton_config import PROBABILITIES
from resx.zoo.spec import INTERPOLATIONS, Interpolation


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One class for one image."""

    label: str
    index: int
    probability: float


def load_images(paths: Sequence[Path]) -> list[Image.Image]:
    """Decode image files to RGB.

    Raises:
        UsageError: a file is missing, or is no image that Pillow knows.
    """
    return [load_image(path) for path in paths]


def model_input(images: Sequence[Image.Image], interface: Interface) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Return images [N, 3, H, W] as the served model takes them, UINT8 or normalised FP32."""
    height, width = interface.image_size
    resize = int(interface.parameters.get("resx.resize", min(height, width)))
    batch = np.stack([
        pixels(image, height=height, width=width, resize=resize, interpolation=_interpolation(interface))
        for image in images
    ])  # fmt: skip
    if interface.input_type == "UINT8":
        return batch
    mean, std = (_numbers(interface, key) for key in ("resx.mean", "resx.std"))
    return normalised_pixels(batch, mean, std)


def classify_files(
    client: TritonClient, model: str, images: Sequence[Image.Image], *, top: int, version: int | None = None
) -> list[list[Guess]]:
    """Return per image its `top` most likely classes, with softmax probabilities over all classes.

    Raises:
        UsageError: the model is not loaded or takes no images.
        MissingCapability: no server answers.
    """
    interface = client.interface(model, version)
    size = max(1, interface.max_batch_size)
    has_softmax = interface.parameters.get("resx.output") == PROBABILITIES
    answers: list[list[Guess]] = []
    for start in range(0, len(images), size):
        batch = model_input(images[start : start + size], interface)
        num_images = len(batch)
        if interface.fixed_batch:
            batch = np.concatenate([batch, np.repeat(batch[-1:], size - num_images, axis=0)])
        rows = client.classify(model, interface, batch, version)[:num_images]
        answers += [_guesses(row, has_softmax=has_softmax)[:top] for row in rows]
    return answers


def classify_raw_files(client: TritonClient, model: str, paths: Sequence[Path], *, top: int) -> list[list[Guess]]:
    """Return what `classify_files` returns, but send the files as they are: the server decodes and resizes them.

    Raises:
        UsageError: a file is missing or is no image, or the model has no image endpoint there.
    """
    has_softmax = client.interface(model).parameters.get("resx.output") == PROBABILITIES
    answers = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None
        try:
            predictions = client.classify_file(model + IMAGE, content)
        except ServerError as error:
            if any(words in str(error) for words in ("file of ", "image of ")):  # preprocess/model.py's own
                raise UsageError(f"{path}: {error}") from error
            raise
        answers.append(_guesses(predictions, has_softmax=has_softmax)[:top])
    return answers


def _guesses(predictions: Sequence[Prediction], *, has_softmax: bool) -> list[Guess]:
    probabilities = np.array([prediction.logit for prediction in predictions])
    if not has_softmax:
        weights = np.exp(probabilities - probabilities.max())
        probabilities = weights / weights.sum()
    return [
        Guess(label=prediction.label, index=prediction.index, probability=float(probability))
        for prediction, probability in zip(predictions, probabilities, strict=True)
    ]


def _interpolation(interface: Interface) -> Interpolation:
    name = interface.parameters.get("resx.interpolation", "bilinear")
    for known in INTERPOLATIONS:
        if name == known:
            return known
    raise UsageError(
        f"resx.interpolation {name!r} in the model's config.pbtxt: resx resizes {' or '.join(INTERPOLATIONS)}; "
        "export it again"
    )


def _numbers(interface: Interface, key: str) -> tuple[float, ...]:
    text = interface.parameters.get(key)
    if text is None:
        raise UsageError(f"the model takes {interface.input_type}, and its config.pbtxt has no {key}; export it again")
    return tuple(float(number) for number in text.split(","))
