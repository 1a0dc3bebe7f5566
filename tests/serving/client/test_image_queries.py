from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.card.image_form import as_float
from resx.data import photographs as geometry
from resx.errors import UsageError
from resx.repository.interface import Interface
from resx.serving.client import image_queries


def interface(input_type: str = "UINT8", **parameters: str) -> Interface:
    return Interface(
        input_name="image",
        input_type=input_type,
        output_name="logits",
        num_classes=2,
        input_dims=(3, 224, 224),
        max_batch_size=8,
        parameters={key.replace("_", "."): value for key, value in parameters.items()},
    )


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (10, 10), (224, 224), (3000, 50)])
def test_any_image_gets_the_models_shape(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    pixels = geometry.pixels(image, height=224, width=224, resize=256)
    assert pixels.shape == (3, 224, 224)
    assert pixels.dtype == np.uint8
    assert [int(channel[0, 0]) for channel in pixels] == [10, 20, 30]


def test_resize_and_crop_are_torchvisions() -> None:
    import torchvision.transforms.v2.functional as F

    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    expected = F.center_crop(F.resize(image, [256], antialias=True), [224, 224])
    actual = geometry.pixels(image, height=224, width=224, resize=256)
    assert np.array_equal(actual.transpose(1, 2, 0), np.asarray(expected))


def test_a_models_own_filter_resizes_its_images() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for name in ("bilinear", "bicubic"):
        x = image_queries.model_input([image], interface(resx_resize="232", resx_interpolation=name))
        expected = geometry.pixels(image, height=224, width=224, resize=232, interpolation=name)
        assert np.array_equal(x[0], expected)
    older = image_queries.model_input([image], interface(resx_resize="232"))
    assert np.array_equal(older[0], geometry.pixels(image, height=224, width=224, resize=232))


def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(UsageError, match=r"resx\.interpolation 'box'.* bilinear or bicubic; export it again"):
        image_queries.model_input([Image.new("RGB", (8, 8))], interface(resx_interpolation="box"))


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1"):
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.png")
        (image,) = image_queries.load_images([tmp_path / f"{mode}.png"])
        assert image.mode == "RGB"


def test_a_float_model_gets_as_float() -> None:
    batch = [Image.new("RGB", (224, 224), (255, 0, 127))]
    parameters = {"resx_mean": "0.5,0.5,0.5", "resx_std": "0.25,0.25,0.25"}
    x = image_queries.model_input(batch, interface("FP32", **parameters))
    assert x.dtype == np.float32
    assert np.allclose(x[0, :, 0, 0], [2.0, -2.0, (127 / 255 - 0.5) / 0.25], atol=1e-6)


def test_a_half_model_gets_the_same_pixels_in_half_precision() -> None:
    batch, parameters = [Image.new("RGB", (224, 224), (255, 0, 127))], {"resx_mean": "0.5,0,0", "resx_std": "1,1,1"}
    single, half = (image_queries.model_input(batch, interface(kind, **parameters)) for kind in ("FP32", "FP16"))
    assert half.dtype == np.float16
    assert np.array_equal(half, single.astype(np.float16))


@pytest.mark.parametrize("kind", ["FP32", "FP16"])
def test_a_float_model_without_its_normalisation_is_refused_before_the_first_image(kind: str) -> None:
    with pytest.raises(UsageError, match=r"no resx.mean, .*resx export FILE.onnx --mean"):
        image_queries.preparation_for(interface(kind))


def test_a_model_of_another_type_takes_no_images() -> None:
    with pytest.raises(UsageError, match="takes INT32; images can be sent as UINT8 or FP32 or FP16"):
        image_queries.preparation_for(interface("INT32"))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"hello, world")
    with pytest.raises(UsageError, match=r"photo.jpg: not an image; give a PNG, JPEG or WebP"):
        image_queries.load_images([path])


def test_a_strip_among_others_is_named() -> None:
    batch = [Image.new("RGB", (8, 8)), Image.new("RGB", (1, 60_000))]
    with pytest.raises(UsageError, match=r"^strip.png: image of 1 x 60000 pixels: too long and thin"):
        image_queries.model_input(batch, interface(), ["square.png", "strip.png"])


def test_normalised_pixels_are_what_pytorch_gets() -> None:
    import torch

    from resx.training.evaluation import normalize
    from tests.support.tiny_models import tiny_spec

    spec = tiny_spec()
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    ours = as_float(batch, spec.mean, spec.std)
    assert np.abs(ours - normalize(batch, spec, torch.device("cpu")).numpy()).max() < 1e-6
