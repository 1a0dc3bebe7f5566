"""Images are prepared for timm's networks as timm's own pipeline does, wherever resx prepares them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from resx.card.image_form import as_float
from resx.card.origin import SourceArguments
from resx.card.signature import signature_of
from resx.data.folder import decode
from resx.data.image_geometry import pixels
from resx.errors import UsageError
from resx.export.int8.calibration import load_calibration
from resx.export.sources.source import load_source
from resx.export.sources.timm_preprocessing import class_labels, image_format
from resx.repository import config_pbtxt
from resx.repository.interface import Interface
from resx.scoring.evaluation.loaded_subjects import open_source
from resx.serving.client import image_queries
from resx.zoo.spec import ImageFormat
from tests.support.cards import card
from tests.support.command import Finished, Resx

PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]
SIZES = [(640, 427), (333, 501), (97, 31)]


def published_configs() -> dict[ImageFormat, dict[str, Any]]:
    """Return each way in which timm prepares images for its classifiers, but for VOLO, which pads them."""
    found: dict[ImageFormat, dict[str, Any]] = {}
    for name in timm.list_models(include_tags=True):
        config = timm.get_pretrained_cfg(name).to_dict()
        if config["num_classes"] and not name.startswith("volo_"):
            found.setdefault(image_format(f"timm:{name}", config, None), config)
    return found


def take(image: Image.Image, how: ImageFormat) -> np.ndarray:
    """Return normalized pixels [3, H, W] as resx prepares them."""
    taken = pixels(
        image,
        height=how.image_size,
        width=how.image_size,
        resize=how.resize,
        interpolation=how.interpolation,
        crop=how.crop,
    )
    return as_float(taken[None], how.mean, how.std)[0]


def grey_levels_apart(ours: np.ndarray, theirs: torch.Tensor, how: ImageFormat) -> float:
    return float((np.abs(ours - theirs.numpy()) * np.array(how.std).reshape(3, 1, 1) * 255).max())


def test_our_pixels_are_timms_for_every_network_of_its_registry() -> None:
    formats = published_configs()
    assert {how.crop for how in formats} == {"center", "squash"}
    assert {how.interpolation for how in formats} == {"bilinear", "bicubic"}
    for number, (how, config) in enumerate(formats.items()):
        pipeline = create_transform(**resolve_data_config({}, pretrained_cfg=config))
        image = PHOTOGRAPHS[number % 2].resize(SIZES[number % len(SIZES)])
        assert grey_levels_apart(take(image, how), pipeline(image), how) <= 1, config


@pytest.mark.parametrize("size", [*SIZES, (160, 160), (1, 900), (301, 300)])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.97])
def test_our_pixels_are_timms_for_images_of_any_shape(size: tuple[int, int], crop_mode: str, crop_pct: float) -> None:
    config = timm.get_pretrained_cfg("test_resnet").to_dict() | {"crop_mode": crop_mode, "crop_pct": crop_pct}
    how = image_format("timm:x", config, None)
    image = PHOTOGRAPHS[0].resize(size)
    pipeline = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    assert grey_levels_apart(take(image, how), pipeline(image), how) <= 1


def test_another_image_size_keeps_the_share_of_the_crop_and_the_test_size_has_its_own() -> None:
    config = timm.get_pretrained_cfg("resnet50.a1_in1k").to_dict()
    own, test, other = (image_format("timm:x", config, size) for size in (None, 288, 256))
    assert (own.image_size, own.resize) == (224, int(224 / 0.95))
    assert (test.image_size, test.resize) == (288, 288)
    assert (other.image_size, other.resize) == (256, int(256 / 0.95))


@pytest.fixture(scope="module")
def squashing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as timm saves for the Hub, of a network whose authors squash images."""
    folder = tmp_path_factory.mktemp("hub") / "squashing"
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    save_for_hf(model, folder, model_config={"label_names": ["cat", "dog", "no\nanimal"]}, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_mode": "squash", "crop_pct": 0.8, "mean": [0.1, 0.2, 0.3]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.integration
def test_the_preprocessing_is_part_of_spec_card_and_configuration_and_prepares_every_image(
    squashing: Path, tmp_path: Path, resx: Resx
) -> None:
    done = resx("export", f"hf:{squashing}", "--name", "pets", "--json")
    assert done.code == 0, done.err
    written = resx("info", "pets", "--json").json["card"]
    spec = written["source"]["spec"]
    assert (spec["image_size"], spec["resize"], spec["crop"], spec["interpolation"]) == (160, 200, "squash", "bilinear")
    assert (spec["mean"], spec["labels"]) == ([0.1, 0.2, 0.3], ["cat", "dog", "no\\nanimal"])
    assert written["tools"]["timm"] == timm.__version__
    configuration = config_pbtxt.parse((tmp_path / "model_repository/pets/config.pbtxt").read_text())
    parameters = {key: value.string_value for key, value in configuration.parameters.items()}
    assert (parameters["resx.resize"], parameters["resx.crop"]) == ("200", "squash")

    image = PHOTOGRAPHS[0].resize((500, 100))
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=spec_of(squashing)))(image)
    image.save(tmp_path / "photo.png")
    how = ImageFormat(**{name: spec[name] for name in ImageFormat.model_fields})
    interface = Interface(
        input_name="image",
        input_type="UINT8",
        output_name="logits",
        num_classes=3,
        input_dims=(3, 160, 160),
        max_batch_size=8,
        parameters=parameters,
    )
    source = load_source(f"hf:{squashing}", weights="none", seed=0)
    signature = signature_of(source.description.network, "uint8")
    arguments = SourceArguments(source=f"hf:{squashing}", weights="none", seed=0, image_size=None, settings=())
    for taken in (
        image_queries.model_input([image], interface)[0],
        decode(tmp_path / "photo.png", how),
        load_calibration(str(tmp_path), signature, num_images=1, seed=0, run=None).images[0],
        open_source(arguments).prepare(image, "photo.png")[0],
    ):
        ours = as_float(taken[None], how.mean, how.std)[0]
        assert grey_levels_apart(ours, theirs, how) <= 1
    with torch.inference_mode():
        expected = timm.create_model(f"local-dir:{squashing}", pretrained=True).eval()(theirs[None]).numpy()
    found = source.logits(image_queries.model_input([image], interface))
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def spec_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    return found


def test_a_crop_that_resx_does_not_know_is_refused_where_a_configuration_names_it() -> None:
    interface = Interface(
        input_name="image",
        input_type="UINT8",
        output_name="logits",
        num_classes=2,
        input_dims=(3, 8, 8),
        max_batch_size=8,
        parameters={"resx.crop": "border"},
    )
    with pytest.raises(UsageError, match=r"resx\.crop 'border'.* center or squash; export it again"):
        image_queries.model_input([Image.new("RGB", (8, 8))], interface)


def test_a_plain_crop_is_not_written_so_that_older_configurations_are_the_same() -> None:
    assert "resx.crop" not in config_pbtxt.image_parameters(card())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop_mode": "border"}, "crop_mode 'border'; resx supports center and squash"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'; resx supports bilinear and bicubic"),
        ({"input_size": (1, 28, 28)}, "the input is 1 x 28 x 28; resx serves networks of square RGB images"),
        ({"input_size": (3, 128, 256)}, "the input is 3 x 128 x 256"),
        ({"input_size": (3, "224", 224)}, "preprocessing cannot be read"),
        ({"input_size": 224}, "preprocessing cannot be read"),
        ({"crop_pct": "all"}, "preprocessing cannot be read"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"crop_pct": 1e-9}, "resize"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"std": "abc"}, "std"),
        ({"mean": 7}, "preprocessing cannot be used"),
    ],
)
def test_preprocessing_that_resx_does_not_have_is_one_line(change: dict[str, Any], words: str) -> None:
    config = timm.get_pretrained_cfg("resnet18").to_dict() | change
    with pytest.raises(UsageError) as caught:
        image_format("timm:x", config, None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_are_described_where_timm_has_words_and_gaps_are_numbered() -> None:
    imagenet = class_labels({}, 1000, is_imagenet=True)
    assert (len(imagenet), imagenet[0]) == (1000, "tench, Tinca tinca")
    assert class_labels({}, 1000, is_imagenet=False) == ()
    assert class_labels({}, 17, is_imagenet=True) == ()
    names: dict[str, Any] = {"label_names": {"0": "n1", "2": "n3"}, "label_descriptions": {"n3": "a fish"}}
    assert class_labels(names, 4, is_imagenet=True) == ("n1", "class 1", "a fish", "class 3")
    assert class_labels({"label_names": 7}, 4, is_imagenet=False) == ()
    assert class_labels({"label_names": ["", "x" * 3000]}, 2, is_imagenet=False) == ("?", "x" * 1000)


@pytest.mark.integration
def test_a_finished_export_says_nothing_of_timm_where_it_was_not_used(resx: Resx) -> None:
    done: Finished = resx("export", "torchvision:squeezenet1_1", "--image-size", "64", "--json")
    assert done.code == 0, done.err
    assert "timm" not in resx("info", "squeezenet1_1", "--json").json["card"]["tools"]
