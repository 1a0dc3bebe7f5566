"""NAME_image: a file's bytes in, labels out, with the pixels that `resx query` would have sent."""

import importlib.util
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resx.serving.embedded
from resx.card.card import Card, write_card
from resx.card.kinds import CHANNEL_ORDERS, LAYOUTS, PIXEL_MAXIMA, ChannelOrder, Layout, OutputKind, PixelMax
from resx.card.origin import Source
from resx.card.output_kind import as_shown
from resx.card.signature import Signature
from resx.data import photographs as geometry
from resx.errors import UsageError
from resx.files.reading import ReadLimits
from resx.repository import config_pbtxt, image_endpoint
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.interface import interface_of
from resx.repository.versions import Repository
from resx.serving.client.image_queries import preparation_for
from resx.serving.deployment.deploy import deploy
from resx.zoo.spec import CROPS, INTERPOLATIONS, Crop, Interpolation
from tests.support.cards import bicubic_card, card, changed_card
from tests.support.command import Finished
from tests.support.image_files import METADATA, NOISE, RAMP_16_BIT, encoded, frames, png, turned
from tests.support.running_triton import RunningTriton

BACKENDS = Path(resx.serving.embedded.__file__).parent / "backends"
MODEL = BACKENDS / "preprocess" / "model.py"


def publish(repository: Repository, of: Card, options: ServingOptions) -> None:
    with repository.stage() as staged:
        (staged / "model.onnx").write_text("model")
        (staged / "card.json").write_text(write_card(of))
        repository.publish(staged, of, options)


@pytest.fixture
def preprocess(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    return load_code(MODEL)


def load_code(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("code_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = {
    "jpeg": encoded("JPEG"), "progressive": encoded("JPEG", progressive=True), "png": encoded("PNG"),
    "webp": encoded("WEBP"), "grey": encoded("PNG", Image.new("L", (33, 20), 99)),
    "cmyk": encoded("JPEG", Image.new("CMYK", (33, 20), (9, 8, 7, 6))),
    "transparent": encoded("PNG", Image.new("RGBA", (20, 33), (9, 8, 7, 6))),
    "palette": encoded("PNG", Image.fromarray(NOISE).convert("P")),
    "large": encoded("JPEG", Image.fromarray(NOISE).resize((1200, 900))), "turned": turned("JPEG"),
    "16 bits": png(RAMP_16_BIT, color=0, bits=16),
    "16 bits, transparent": png(np.stack([RAMP_16_BIT] * 2, axis=2), color=4, bits=16),
    "a profile in a WebP": encoded("WEBP", icc_profile=bytes(2_000_000)),
    **{f"animated {name}": frames(name) for name in ("PNG", "WEBP")}, **METADATA,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("sizes", [(16, 16, 16), (224, 224, 256), (17, 30, 21)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop", CROPS)
def test_the_pixels_are_those_of_a_query(
    preprocess: ModuleType,
    tmp_path: Path,
    name: str,
    sizes: tuple[int, int, int],
    interpolation: Interpolation,
    crop: Crop,
) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    height, width, resize = sizes
    how: dict[str, Any] = {"height": height, "width": width, "resize": resize, "interpolation": interpolation}
    ours = geometry.pixels(geometry.load_image(tmp_path / name), **how, crop=crop)
    assert np.array_equal(ours, preprocess.pixels(preprocess.decode(FILES[name]), **how, crop=crop))


@pytest.mark.usefixtures("preprocess")
@pytest.mark.parametrize("shape", [(1, 10), (1, 7, 1, 1), (3, 2)])
def test_the_probabilities_are_those_of_a_query(shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(0).normal(0, 500, shape).astype(np.float32)
    served = load_code(BACKENDS / "postprocess" / "model.py").softmax(logits)
    assert served.dtype == np.float32
    assert np.allclose(served, as_shown(logits.reshape(len(logits), -1), "logits"), atol=1e-6)


def test_the_endpoints_bounds_are_those_of_every_other_reader(preprocess: ModuleType) -> None:
    assert ReadLimits(pixels=preprocess.MAX_PIXELS, file_bytes=preprocess.MAX_FILE_BYTES) == ReadLimits()


def configured(preprocess: ModuleType, of: Card) -> Any:
    """Return the backend's model as Triton sets it up from the endpoint's configuration."""
    made = image_endpoint.endpoints(of)[0]
    parsed = config_pbtxt.parse(made.files["config.pbtxt"])
    parameters = {key: {"string_value": value.string_value} for key, value in parsed.parameters.items()}
    config = {"parameters": parameters, "output": [{"dims": [str(dim) for dim in parsed.output[0].dims]}]}
    model = preprocess.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config)})
    return model


def test_the_endpoint_resizes_as_its_model_was_trained(preprocess: ModuleType) -> None:
    assert configured(preprocess, card()).interpolation == "bilinear"
    assert configured(preprocess, bicubic_card()).interpolation == "bicubic"
    assert configured(preprocess, card()).crop == "center"
    assert configured(preprocess, changed_card(crop="squash")).crop == "squash"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", CHANNEL_ORDERS)
@pytest.mark.parametrize("pixel_max", PIXEL_MAXIMA)
def test_the_endpoint_prepares_images_as_the_models_input_has_them(
    preprocess: ModuleType, layout: Layout, channels: ChannelOrder, pixel_max: PixelMax
) -> None:
    dims = (6, 10, 3) if layout == "nhwc" else (3, 6, 10)
    signature = Signature(
        input_name="x", input_type="float32", input_dims=dims, output_name="y", output_dims=(10,), resize=6,
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), layout=layout, channels=channels, pixel_max=pixel_max,
    )  # fmt: skip
    plain = card("float32")
    source = Source(kind="onnx", signature=signature, weights="theirs.onnx", weights_sha256="0" * 64)
    model = configured(preprocess, plain.model_copy(update={"source": source}))
    images = np.random.default_rng(0).integers(0, 256, (1, 3, model.height, model.width), dtype=np.uint8)
    assert images.shape == (1, 3, 6, 10)
    made = model._ordered(model._normalised(images[0]))
    np.testing.assert_allclose(made, signature.as_input(images)[0], rtol=1e-6)
    interface = interface_of("m", {
        "input": [{"name": "x", "dims": dims, "data_type": "TYPE_FP32"}], "output": [{"name": "y", "dims": [10]}],
        "max_batch_size": 4,
        "parameters": {
            key: {"string_value": value}
            for key, value in config_pbtxt.image_parameters(plain.model_copy(update={"source": source})).items()
        },
    })  # fmt: skip
    np.testing.assert_allclose(preparation_for(interface).as_input(images)[0], made, rtol=1e-6)


def test_an_endpoint_of_an_unknown_filter_does_not_load(preprocess: ModuleType) -> None:
    config: dict[str, Any] = {
        "parameters": {"resx.resize": {"string_value": "16"}, "resx.interpolation": {"string_value": "box"}},
        "output": [{"dims": ["1", "3", "16", "16"]}],
    }
    with pytest.raises(ValueError, match=r"resx\.interpolation 'box': give bilinear or bicubic"):
        preprocess.TritonPythonModel().initialize({"model_config": json.dumps(config)})
    config["parameters"] = {"resx.resize": {"string_value": "16"}, "resx.crop": {"string_value": "border"}}
    with pytest.raises(ValueError, match=r"resx\.crop 'border': give center or squash"):
        preprocess.TritonPythonModel().initialize({"model_config": json.dumps(config)})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "file of 0 bytes: empty"), (b"junk", "file of 4 bytes: not a JPEG"), (b"\0" * 1000, "not a JPEG"),
        (FILES["jpeg"][:200], "file of 200 bytes: truncated JPEG"), (FILES["png"][:100], "truncated PNG"),
        (FILES["webp"][:100], "truncated WebP"), (FILES["png"].replace(b"IDATx", b"IDATy", 1), "damaged PNG"),
        (encoded("GIF"), "not a JPEG, PNG or WebP"), (encoded("TIFF"), "not a JPEG, PNG or WebP"),
        (encoded("PNG", Image.new("1", (9000, 9000))), "image of 9000 x 9000 pixels: send 64000000 at most"),
        (encoded("PNG", Image.new("1", (14_000, 14_000))), "image of 196000000 pixels: send 64000000 at most"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    preprocess: ModuleType, content: bytes, reason: str
) -> None:
    with pytest.raises(preprocess.BadImageError, match=reason):
        preprocess.decode(content)


def test_a_file_over_the_limit_is_refused_unread(preprocess: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "MAX_FILE_BYTES", 100)
    with pytest.raises(preprocess.BadImageError, match="send 100 at most"):
        preprocess.decode(FILES["jpeg"])


def test_a_line_of_pixels_is_a_bomb_too(preprocess: ModuleType, tmp_path: Path) -> None:
    line = Image.new("RGB", (60_000, 1))
    with pytest.raises(preprocess.BadImageError, match="too long and thin"):
        preprocess.pixels(line, height=224, width=224, resize=256)
    with pytest.raises(UsageError, match="60000 x 1 pixels: too long and thin"):
        geometry.pixels(line, height=224, width=224, resize=256)


def test_the_configurations_are_what_tritons_protobuf_reads() -> None:
    preprocess, postprocess, ensemble = image_endpoint.endpoints(card("float32"))
    parsed = config_pbtxt.parse(preprocess.files["config.pbtxt"])
    assert (parsed.name, parsed.backend, parsed.max_batch_size) == ("tiny_preprocess", "python", 0)
    assert list(parsed.output[0].dims) == [1, 3, 16, 16]
    assert parsed.output[0].data_type == config_pbtxt.parse("input { data_type: TYPE_FP32 }").input[0].data_type
    assert parsed.parameters["resx.mean"].string_value == "0.4914,0.4822,0.4465"
    parsed = config_pbtxt.parse(ensemble.files["config.pbtxt"])
    steps = [step.model_name for step in parsed.ensemble_scheduling.step]
    assert steps == ["tiny_preprocess", "tiny", "tiny_postprocess"]
    outputs = [(output.name, list(output.dims), output.label_filename) for output in parsed.output]
    assert outputs == [("logits", [1, 10], "labels.txt"), ("probabilities", [1, 10], "labels.txt")]
    parsed = config_pbtxt.parse(postprocess.files["config.pbtxt"])
    assert (parsed.name, parsed.backend) == ("tiny_postprocess", "python")
    assert [output.name for output in parsed.output] == ["logits", "probabilities"]


@pytest.mark.parametrize("kind", ["probabilities", "scores"])
def test_an_output_that_is_no_logits_is_called_what_it_is_and_gets_no_softmax(kind: OutputKind) -> None:
    plain = card()
    of = plain.model_copy(update={"source": plain.source.model_copy(update={"output_kind": kind})})
    preprocess, ensemble = image_endpoint.endpoints(of)
    parsed = config_pbtxt.parse(ensemble.files["config.pbtxt"])
    assert [output.name for output in parsed.output] == [kind]
    assert [step.model_name for step in parsed.ensemble_scheduling.step] == [preprocess.name, "tiny"]


def test_endpoints_are_parts_of_their_model(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish(repository, card(), ServingOptions(image_endpoint=True))
    assert repository.names() == ["tiny"]
    assert repository.endpoints("tiny") == ["tiny_preprocess", "tiny_postprocess", "tiny_image"]
    with pytest.raises(UsageError, match="tiny_image: is the image endpoint of tiny.*use tiny"):
        repository.version_folder("tiny_image")
    for command in ("info", "verify"):
        done = resx(command, "tiny_image", f"--repository={repository.root}")
        assert (done.code, "image endpoint of tiny" in done.err) == (2, True), done.err

    model = repository.root / "tiny_preprocess" / "1" / "model.py"
    model.write_text("of an older version")
    publish(repository, card(), ServingOptions())
    assert model.read_text() == MODEL.read_text(), "a later export renews the endpoint"


def test_anothers_model_of_that_name_is_left_alone(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish(repository, card().model_copy(update={"name": "tiny_image"}), ServingOptions())
    with pytest.raises(UsageError, match="tiny_image: another model has this name"):
        publish(repository, card(), ServingOptions(image_endpoint=True))
    assert repository.versions("tiny") == []


@pytest.fixture(scope="module")
def endpoint(triton: RunningTriton) -> RunningTriton:
    """The server, with image endpoints of `tiny` and `tiny_float`."""
    for name in ("tiny", "tiny_float"):
        staging = triton.repository.root.parent / ".staging-endpoints"
        image_endpoint.write_endpoints(triton.repository.root, triton.repository.card(name), staging)
        with triton.client() as client:
            deploy(client, triton.repository, name)
    return triton


@pytest.mark.triton
@pytest.mark.parametrize("name", ["tiny", "tiny_float"])
def test_raw_and_decoded_queries_agree(
    endpoint: RunningTriton, resx: Callable[..., Finished], tmp_path: Path, name: str
) -> None:
    files = [tmp_path / kind for kind in ("jpeg", "png", "webp", "turned", "16 bits", "a profile")]
    for file in files:
        file.write_bytes(FILES[file.name])
    answers = [resx("query", name, *files, "--url", endpoint.url(), "--json", *more) for more in ([], ["--raw"])]
    assert [answer.code for answer in answers] == [0, 0], answers[1].err
    decoded, raw = (answer.json["images"] for answer in answers)
    for one, other in zip(decoded, raw, strict=True):
        assert [guess["label"] for guess in one["top"]] == [guess["label"] for guess in other["top"]]
        assert one["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], rel=1e-4)


@pytest.mark.triton
def test_plain_http_gives_labels_with_their_probabilities_in_json(
    endpoint: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "p.png").write_bytes(FILES["png"])
    expected = resx("query", "tiny", "p.png", "--url", endpoint.url(), "--json", "--top=3").json["images"][0]["top"]
    content = FILES["png"]
    head = json.dumps(
        {
            "inputs": [{"name": "file", "datatype": "UINT8", "shape": [len(content)],
                        "parameters": {"binary_data_size": len(content)}}],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
        }
    ).encode()  # fmt: skip
    request = urllib.request.Request(
        f"{endpoint.url('http')}/v2/models/tiny_image/infer",
        data=head + content,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (output,) = json.loads(answer.read())["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "BYTES", [3])
    split = [line.split(":", 2) for line in output["data"]]
    assert [label for _, _, label in split] == [guess["label"] for guess in expected]
    assert [float(value) for value, _, _ in split] == pytest.approx([one["probability"] for one in expected], abs=2e-6)


@pytest.mark.triton
def test_every_byte_of_a_file_arrives(endpoint: RunningTriton) -> None:
    """The pixels of a PNG are exact, so equal logits for equal pixels need every byte, zeros too."""
    assert b"\0" in FILES["png"]
    images = geometry.pixels(Image.fromarray(NOISE), height=16, width=16, resize=16)[None]
    with endpoint.client("http") as client:
        expected = client.classify("tiny", client.interface("tiny"), images)[0]
        assert client.classify_file("tiny_image", FILES["png"]) == expected


@pytest.mark.triton
def test_a_bad_image_is_a_400_with_the_reason_and_good_ones_beside_it_are_answered(endpoint: RunningTriton) -> None:
    def post(content: bytes) -> tuple[int, str]:
        request = urllib.request.Request(
            f"{endpoint.url('http')}/v2/models/tiny_image/infer",
            data=content,
            headers={"Inference-Header-Content-Length": "0"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())["error"]

    files = [FILES["jpeg"], b"junk", FILES["webp"], FILES["png"][:100]] * 5
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, files))
    assert [status for status, _ in answers] == [200, 400, 200, 400] * 5
    assert "file of 4 bytes: not a JPEG, PNG or WebP" in answers[1][1]


@pytest.mark.triton
def test_raw_queries_that_cannot_be_are_one_line(
    endpoint: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "b.jpg").write_bytes(b"junk")
    url = ["--raw", "--url", endpoint.url()]
    for arguments, reason in (
        (["tiny", "b.jpg"], "b.jpg: .*not a JPEG, PNG or WebP"),
        (["tiny", "none.jpg"], "none.jpg: no such file"),
        (["tiny", "."], ".: a folder, not an image"),
        (["tiny_fp16", "b.jpg"], "tiny_fp16_image.*--image-endpoint"),
        (["tiny", "b.jpg", "--version", "1"], "--raw, --version"),
    ):
        done = resx("query", *arguments, *url)
        assert done.code == 2
        assert "Traceback" not in done.err

        assert re.search(reason, done.err.replace("\n", " ")), done.err
