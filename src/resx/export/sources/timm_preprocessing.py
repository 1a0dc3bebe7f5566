"""How timm prepares images for a network and what it calls the classes, as its `pretrained_cfg` says.

timm/data/config.py and transforms_factory.py, `transforms_imagenet_eval`:

    resize      floor(size / crop_pct), of the shorter side (crop_mode center) or of both (squash)
    crop        the center, of the size that the network was trained at; `test_input_size` has its own crop_pct
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pydantic

from resx.errors import UsageError, first_line
from resx.files.json_faults import first_fault
from resx.text import one_line
from resx.zoo.spec import CROPS, INTERPOLATIONS, ImageFormat

_MAX_LABEL = 1000


def image_format(text: str, config: Mapping[str, Any], image_size: int | None) -> ImageFormat:
    """Return how timm's `create_transform(**resolve_data_config(...))` prepares images.

    Raises:
        UsageError: they are not square and RGB, or resx has no such filter or crop.
    """
    from timm.data import resolve_data_config

    try:
        at_test_size = image_size is not None and image_size == (config.get("test_input_size") or (0,))[-1]
        found = resolve_data_config({"img_size": image_size}, pretrained_cfg=dict(config), use_test_size=at_test_size)
        height, width = found["input_size"][1:]
        channels = (config.get("input_size") or (3,))[0]
        share = float(found["crop_pct"])
        resize = math.floor(height / share)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError) as error:
        raise UsageError(f"{text}: its preprocessing cannot be read: {first_line(error, with_type=True)}") from error
    if channels != 3 or height != width:
        raise UsageError(
            f"{text}: the input is {channels} x {height} x {width}; resx serves networks of square RGB images"
        )
    for what, word, known in (
        ("crop_mode", found["crop_mode"], CROPS),
        ("interpolation", found["interpolation"], INTERPOLATIONS),
    ):
        if word not in known:
            raise UsageError(f"{text}: uses {what} {word!r}; resx supports {' and '.join(known)}")
    if not 0 < share <= 1:
        raise UsageError(f"{text}: crop_pct={share}: resx supports a share of the image in (0, 1], without padding")
    try:
        return ImageFormat(
            image_size=height,
            resize=resize,
            mean=tuple(found["mean"]),
            std=tuple(found["std"]),
            interpolation=found["interpolation"],
            crop=found["crop_mode"],
        )
    except (pydantic.ValidationError, TypeError) as error:
        why = first_fault(error) if isinstance(error, pydantic.ValidationError) else first_line(error)
        raise UsageError(f"{text}: its preprocessing cannot be used: {why}") from error


def class_labels(config: Mapping[str, Any], num_classes: int, *, is_imagenet: bool) -> tuple[str, ...]:
    """Return what the classes are called, described where they are; none where nothing says so.

    Args:
        config: `label_names` is a list, or a mapping from numbers, with gaps; `label_descriptions` has words for them.
        num_classes: of the network.
        is_imagenet: take timm's own lists where the number of classes is that of a subset of ImageNet.
    """
    names, descriptions = config.get("label_names"), config.get("label_descriptions")
    if not names or not isinstance(names, Mapping | list | tuple):
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset({"num_classes": num_classes}) if is_imagenet else None
        return tuple(ImageNetInfo(subset).label_descriptions()) if subset else ()
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    by_number = {str(number): str(name) for number, name in pairs}
    described = descriptions if isinstance(descriptions, Mapping) else {}
    words = [by_number.get(str(number), f"class {number}") for number in range(num_classes)]
    return tuple(one_line(str(described.get(word) or word))[:_MAX_LABEL] or "?" for word in words)
