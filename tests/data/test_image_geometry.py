"""Our pixels are those of torchvision's own transforms, for every geometry that it publishes weights with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import models
from torchvision.transforms import functional as F

from resx.data.folder import decode
from resx.data.image_geometry import pixels
from resx.errors import UsageError
from resx.zoo.spec import IMAGENET_MEAN, IMAGENET_STD, ImageFormat, Interpolation
from resx.zoo.weights import pretrained

PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]
SIZES = [(640, 427), (427, 640), (301, 300), (500, 333), (333, 501), (257, 1001), (224, 224), (97, 31), (600, 599)]


def published_formats() -> list[tuple[int, int, Interpolation]]:
    """Return crop, resize and filter of every classifier's weights in torchvision, each combination once."""
    found = set()
    for name in models.list_models(module=models):
        for entry in models.get_model_weights(name):
            transforms = entry.transforms()
            assert transforms.antialias
            found.add((transforms.crop_size[0], transforms.resize_size[0], transforms.interpolation.value))
    return sorted(found)


def torchvisions(image: Image.Image, crop: int, resize: int, interpolation: Interpolation) -> np.ndarray:
    mode = F.InterpolationMode(interpolation)
    resized = F.resize(image, [resize], interpolation=mode, antialias=True)
    return np.asarray(F.center_crop(resized, [crop]))


@pytest.mark.parametrize(("crop", "resize", "interpolation"), published_formats())
def test_our_pixels_are_torchvisions(crop: int, resize: int, interpolation: Interpolation) -> None:
    for index, size in enumerate(SIZES):
        image = PHOTOGRAPHS[index % 2].resize(size)
        ours = pixels(image, height=crop, width=crop, resize=resize, interpolation=interpolation)
        assert np.array_equal(ours.transpose(1, 2, 0), torchvisions(image, crop, resize, interpolation)), size


@pytest.mark.parametrize("crop", [9, 10, 13, 14])
def test_small_and_odd_crops_are_cut_where_torchvision_cuts_them(crop: int) -> None:
    for width in range(16, 48):
        image = PHOTOGRAPHS[0].resize((width, 33))
        ours = pixels(image, height=crop, width=crop, resize=15, interpolation="bicubic")
        assert np.array_equal(ours.transpose(1, 2, 0), torchvisions(image, crop, 15, "bicubic")), width


def test_the_formats_of_all_published_weights_are_the_transforms_own() -> None:
    bicubic = 0
    for name in models.list_models(module=models):
        transforms = models.get_model_weights(name).DEFAULT.transforms()
        image = pretrained.published_weights(name).image
        assert image == ImageFormat(
            image_size=transforms.crop_size[0],
            resize=transforms.resize_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        )
        bicubic += image.interpolation == "bicubic"
    assert bicubic >= 17


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_sees_the_same_pixels(tmp_path: Path, interpolation: Interpolation) -> None:
    image = PHOTOGRAPHS[0].resize((57, 40))
    image.save(tmp_path / "x.png")
    taken = ImageFormat(image_size=24, resize=27, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation=interpolation)
    ours = decode(tmp_path / "x.png", taken)
    assert np.array_equal(ours.transpose(1, 2, 0), torchvisions(image, 24, 27, interpolation))


def test_an_input_that_is_not_square_is_filled_by_the_image() -> None:
    image = Image.new("RGB", (30, 30), "red")
    assert (pixels(image, height=8, width=20, resize=8)[0] == 255).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_image_that_is_squashed_loses_nothing_but_the_margin_of_both_sides(interpolation: Interpolation) -> None:
    mode = F.InterpolationMode(interpolation)
    for index, size in enumerate(SIZES):
        image = PHOTOGRAPHS[index % 2].resize(size)
        ours = pixels(image, height=24, width=24, resize=27, interpolation=interpolation, crop="squash")
        theirs = F.center_crop(F.resize(image, [27, 27], interpolation=mode, antialias=True), [24, 24])
        assert np.array_equal(ours.transpose(1, 2, 0), np.asarray(theirs)), size


def test_a_strip_is_squashed_where_cropping_it_would_take_gigabytes() -> None:
    strip = Image.new("RGB", (60_000, 1), "red")
    assert (pixels(strip, height=8, width=8, resize=9, crop="squash")[0] == 255).all()
    assert pixels(strip, height=8, width=20, resize=9, crop="squash").shape == (3, 8, 20)


def test_what_would_be_resized_to_gigabytes_is_refused() -> None:
    with pytest.raises(UsageError, match="60000 x 1 pixels: too long and thin"):
        pixels(Image.new("RGB", (60_000, 1)), height=224, width=224, resize=256)
