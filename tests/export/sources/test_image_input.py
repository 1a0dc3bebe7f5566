"""Images as other tools' files take them: channels last, BGR, up to 255, not square; and what resx makes of them."""

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

from resx.card.card import Card, read_card
from resx.card.kinds import InputType, Precision
from resx.card.origin import FileArguments
from resx.card.signature import Signature
from resx.errors import UsageError
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.reference import ask_source
from resx.export.sources.onnx_files import LoadedFile
from resx.export.sources.source import load_source
from resx.repository.versions import Repository
from resx.runtimes import onnx_reader
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.scoring.in_process import find_model, open_file
from resx.serving.client.image_queries import model_input
from tests.support.command import Resx, refused
from tests.support.onnx_files import saved

HEIGHT, WIDTH = 6, 10
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def twin(
    *,
    layout: str = "nchw",
    channels: str = "rgb",
    pixel_max: int = 1,
    batch: int | str = "n",
    size: tuple[int | str, int | str] = (HEIGHT, WIDTH),
    names: tuple[str, str] = ("input:0", "save_infer_model/scale_0.tmp_1"),
    softmax: bool = False,
    opset: int = 13,
) -> ModelProto:
    """Return one small network, whatever the form of its input: the same pixels, prepared for it, give the same answer.

    `pixel_max`, `channels` and `layout` are undone by its first nodes.
    """
    random, (given, answer), nodes, last = np.random.default_rng(5), names, [], names[0]
    weights = {
        "filters": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "classes": random.normal(0, 1, (4, 8)).astype(np.float32),
        "image": np.array(pixel_max, np.float32),  # a name that resx would like to have
        "order": np.array([2, 1, 0], np.int64),
    }
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        last = "first"
    if channels == "bgr":
        nodes.append(helper.make_node("Gather", [last, "order"], ["ordered"], axis=1))
        last = "ordered"
    nodes += [
        helper.make_node("Div", [last, "image"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "filters"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "classes"], ["logits" if softmax else answer], transB=1, name="gemm"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], [answer], axis=1, name="softmax"))
    shape = (batch, *size, 3) if layout == "nhwc" else (batch, 3, *size)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(answer, TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def export(
    path: Path,
    folder: Path,
    arguments: FileArguments,
    *,
    input_type: InputType = "uint8",
    image_size: int | tuple[int, int] | None = None,
    precision: Precision = "fp32",
) -> tuple[Card, OnnxRuntimeModel]:
    source = load_source(str(path), weights="none", seed=0, image_size=image_size, file=arguments)
    folder.mkdir()
    options = ExportOptions(input_type=input_type, precision=precision)
    card = export_version(source, options, folder, name="m", command="a test")
    return card, OnnxRuntimeModel(folder / "model.onnx")


def pixels(num_images: int = 3, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (num_images, 3, *size), dtype=np.uint8)


def scaled(pixel_max: int) -> FileArguments:
    """Return the same normalization for either white."""
    factor = float(pixel_max)
    return FileArguments.model_validate(
        {"mean": [factor * value for value in MEAN], "std": [factor * value for value in STD], "pixel_max": pixel_max}
    )


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("pixel_max", [1, 255])
def test_the_same_pixels_give_the_same_answer_in_every_form(
    tmp_path: Path, layout: str, channels: str, pixel_max: int, input_type: InputType
) -> None:
    usual = saved(twin(), tmp_path, "usual")
    _, expected = export(usual, tmp_path / "usual", scaled(1))
    # (x - 255 mean) / 255 std is the usual numbers already: the network must not divide again.
    theirs = saved(twin(layout=layout, channels=channels), tmp_path)
    arguments = scaled(pixel_max).model_copy(update={"channels": channels})
    card, session = export(theirs, tmp_path / "theirs", arguments, input_type=input_type)
    assert (card.signature.layout, card.signature.channels) == (
        ("nchw", "rgb") if input_type == "uint8" else (layout, channels)
    )
    answer = session(card.signature.as_input(pixels()))
    np.testing.assert_allclose(answer, expected(pixels()), atol=1e-6)
    assert np.ptp(answer, axis=0).min() > 1e-3


def test_numbers_to_255_without_a_mean_are_the_pixels_themselves(tmp_path: Path) -> None:
    _, unit = export(saved(twin(), tmp_path, "unit"), tmp_path / "unit", FileArguments(mean=(0, 0, 0), std=(1, 1, 1)))
    theirs = saved(twin(layout="nhwc", pixel_max=255), tmp_path)
    card, session = export(theirs, tmp_path / "theirs", FileArguments(pixel_max=255))
    np.testing.assert_allclose(session(pixels()), unit(pixels()), atol=1e-6)
    assert card.source.normalization is not None
    assert (card.source.normalization.mean_from, card.source.normalization.std_from) == ("none", "none")


def test_what_is_published_takes_pixels_and_keeps_its_output_and_the_card_says_both(tmp_path: Path) -> None:
    path = saved(twin(layout="nhwc", channels="bgr"), tmp_path)
    card, _ = export(path, tmp_path / "v", FileArguments(channels="bgr"))
    taken, own = card.signature, card.source.signature
    assert own is not None
    assert (taken.input_name, taken.input_type, taken.input_dims) == ("image", "uint8", (3, HEIGHT, WIDTH))
    assert (own.input_name, own.input_type, own.input_dims) == ("input:0", "float32", (HEIGHT, WIDTH, 3))
    assert taken.output_name == own.output_name == "save_infer_model/scale_0.tmp_1"
    model = onnx.load(tmp_path / "v" / "model.onnx")
    assert [value.name for value in model.graph.input] == ["image"]
    assert read_card(tmp_path / "v").signature == taken


@pytest.mark.parametrize("names", [("image", "answer"), ("x", "image"), ("image", "pixels")])
def test_the_input_gets_a_name_that_the_file_does_not_have(tmp_path: Path, names: tuple[str, str]) -> None:
    model = twin()
    for node in model.graph.node:  # make room for the names: the constant is called image in the other tests
        node.input[:] = ["white" if name == "image" else name for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = "white" if tensor.name == "image" else tensor.name
    before, after = ("input:0", "save_infer_model/scale_0.tmp_1"), names
    for node in model.graph.node:
        for part in (node.input, node.output):
            part[:] = [dict(zip(before, after, strict=True)).get(name, name) for name in part]
    model.graph.input[0].name, model.graph.output[0].name = after
    _, expected = export(saved(twin(), tmp_path, "usual"), tmp_path / "usual", scaled(1))
    card, session = export(saved(model, tmp_path), tmp_path / "v", scaled(1))
    assert card.signature.input_name not in names
    np.testing.assert_allclose(session(pixels()), expected(pixels()), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "layout", "dims"),
    [
        (("n", 8, 8, 3), "nhwc", (8, 8, 3)),
        (("n", 3, 8, 8), "nchw", (3, 8, 8)),
        (("n", 3, 8, 3), "nchw", (3, 8, 3)),
        ((-1, 48, 192, 3), "nhwc", (48, 192, 3)),
        (("n", 1, 8, 8), None, (1, 8, 8)),
        (("n", 8, 8, 1), None, (8, 8, 1)),
    ],
)
def test_the_layout_is_told_by_the_shape(
    tmp_path: Path, shape: tuple[int | str, ...], layout: str | None, dims: tuple[int, ...]
) -> None:
    signature = given_signature(saved(sum_of(shape), tmp_path))
    assert signature.input_dims == dims
    assert (signature.resize is not None) == (layout is not None)
    assert signature.layout == (layout or "nchw")
    if layout is not None:
        assert signature.resize == min(size for size in dims if size != 3 or dims == (3, 8, 3))


def sum_of(shape: tuple[int | str, ...]) -> ModelProto:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["y"], axes=[1], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def given_signature(
    path: Path, arguments: FileArguments | None = None, image_size: int | tuple[int, int] | None = None
) -> Signature:
    source = load_source(str(path), weights="none", seed=0, image_size=image_size, file=arguments or FileArguments())
    signature = source.description.signature
    assert signature is not None
    return signature


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_an_open_size_is_closed_in_the_files_layout(tmp_path: Path, layout: str) -> None:
    path = saved(twin(layout=layout, size=("h", "w")), tmp_path)
    signature = given_signature(path, image_size=(HEIGHT, WIDTH))
    assert signature.pixel_dims == (3, HEIGHT, WIDTH)
    assert signature.input_dims == ((HEIGHT, WIDTH, 3) if layout == "nhwc" else (3, HEIGHT, WIDTH))
    with pytest.raises(UsageError, match="--image-size HxW"):
        given_signature(path)
    with pytest.raises(UsageError, match="remove the option"):
        given_signature(saved(twin(layout=layout), tmp_path, "closed"), image_size=(WIDTH, HEIGHT))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (twin(), {"layout": "nhwc"}, r"--layout nhwc: .* not \[N, H, W, 3\]"),
        (twin(layout="nhwc"), {"layout": "nchw"}, r"--layout nchw: .* not \[N, 3, H, W\]"),
        (twin(), {"mean": (123, 117, 104)}, "--mean 123,117,104: above 1, .*add --pixel-max 255"),
        (sum_of(("n", 12)), {"channels": "bgr"}, "--channels: .* not an RGB image"),
        (sum_of(("n", 12)), {"pixel_max": 255}, "--pixel-max: .* not a float image"),
    ],
)
def test_what_does_not_fit_the_file_is_refused_with_the_remedy(
    tmp_path: Path, model: ModelProto, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        given_signature(saved(model, tmp_path), FileArguments.model_validate(arguments))


@pytest.mark.parametrize("batch", [1, 2, "n", -1])
def test_every_kind_of_batch_is_exported(tmp_path: Path, batch: int | str) -> None:
    card, session = export(saved(twin(layout="nhwc", batch=batch), tmp_path), tmp_path / "v", scaled(1))
    fixed = batch if isinstance(batch, int) and batch > 0 else None
    assert card.signature.batch == fixed
    assert card.max_batch_size == (fixed or 8)
    assert session(pixels(fixed or 3)).shape == (fixed or 3, 4)


def test_an_old_opset_is_converted_where_the_front_needs_it(tmp_path: Path) -> None:
    model = sum_of(("n", 8, 8, 3))
    model.opset_import[0].version = 6
    card, session = export(saved(model, tmp_path), tmp_path / "v", FileArguments(mean=(0, 0, 0), std=(1, 1, 1)))
    assert card.opset >= 7
    images = pixels(2, (8, 8))
    np.testing.assert_allclose(session(images)[:, 0], images.mean((1, 2, 3)) / 255, atol=1e-6)


FORMS = {
    "usual": (twin(softmax=True), "--mean 0.5,0.4,0.3 --std 0.2,0.25,0.3"),
    "theirs": (
        twin(softmax=True, layout="nhwc", channels="bgr", size=("h", "w")),
        "--channels bgr --pixel-max 255 --mean 127.5,102,76.5 --std 51,63.75,76.5 --image-size 6x10",
    ),
}
"""The same network: as PyTorch writes it, and as others do."""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of the network's size, which nobody has to resize."""
    path = tmp_path / "photos" / "a" / "photo.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels(1)[0].transpose(1, 2, 0)).save(path)
    return path


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
def test_commands_prepare_images_as_the_card_says(tmp_path: Path, photo: Path, input_type: str, resx: Resx) -> None:
    repository, answers = tmp_path / "model_repository", []
    for name, (model, options) in FORMS.items():
        path = saved(model, tmp_path, name)
        done = resx("export", path, *shlex.split(options), f"--input={input_type}", "-q")
        assert done.code == 0, done.err
        file = find_model(Repository(repository), name, None)
        run = open_file(file.path, file.config, "cpu", name)
        x = model_input([Image.open(photo)], file.model.interface)
        (answer,) = run([file.model.interface.output_name], {file.model.interface.input_name: x})
        assert resx("predict", name, photo.parent, "-o", tmp_path / f"{name}.jsonl", "-q").code == 0
        row = json.loads((tmp_path / f"{name}.jsonl").read_text().splitlines()[0])
        best = np.argsort(-answer[0])
        assert row["classes"] == best[: len(row["classes"])].tolist()
        np.testing.assert_allclose(row["probabilities"], answer[0][row["classes"]], atol=1e-6)
        answers.append(answer)
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_the_export_says_in_one_line_what_it_guessed(tmp_path: Path, resx: Resx) -> None:
    model, options = FORMS["theirs"]
    done = resx("export", saved(model, tmp_path), *shlex.split(options))
    said = [line for line in done.out.splitlines() if line.startswith("image:")]
    assert said == [
        "image: input:0 takes 6 x 10 BGR, white is 255, channels last (guessed from the shape; --layout nchw overrides "
        "it); image takes RGB pixels, and the graph converts them"
    ]
    usual, options = FORMS["usual"]
    assert "image:" not in resx("export", saved(usual, tmp_path, "usual"), *shlex.split(options)).out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--image-size 6y10", "--image-size 6y10: give pixels from 1 to 4096, as 224, or height and width, as 48x192"),
        ("--image-size 0x10", "--image-size 0x10: give pixels"),
        ("--image-size 1x2x3", "--image-size 1x2x3: give pixels"),
        ("--layout nwhc", "--layout nwhc: give one of nchw, nhwc"),
        ("--channels grb", "--channels grb: give one of rgb, bgr"),
        ("--pixel-max 256", "--pixel-max 256: give one of 1, 255"),
        ("--image-size 6x10 --mean 104,117,123", "add --pixel-max 255"),
        ("--image-size 6x10 --int8", "--calibrate"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(tmp_path: Path, options: str, message: str, resx: Resx) -> None:
    model, _ = FORMS["theirs"]
    refused(resx("export", saved(model, tmp_path), *shlex.split(options)), 2, message)
    assert not (tmp_path / "model_repository").exists()


def test_a_network_takes_square_images_and_no_options_of_files(tmp_path: Path, resx: Resx) -> None:
    refused(resx("export", "torchvision:resnet18", "--image-size", "48x192"), 2, "takes square images")
    refused(resx("export", "resnet18", "--channels", "bgr"), 2, "these options are for .onnx files")


def test_a_files_own_rounding_is_that_of_its_weights_and_of_every_node(tmp_path: Path) -> None:
    source = load_source(str(saved(twin(), tmp_path)), weights="none", seed=0, file=scaled(1))
    assert isinstance(source, LoadedFile)
    rounded = source.rounded("fp16")
    assert rounded is not None
    before, after = source.logits(pixels(8)), rounded.logits(pixels(8))
    error = np.abs(after - before).max() / np.abs(before).max()
    assert 2**-14 < error < 2**-7
    np.testing.assert_array_equal(after.astype(np.float16).astype(np.float32), after)
    assert source.rounded("bf16") is None


def test_fp16_is_allowed_what_the_files_own_rounding_does(tmp_path: Path) -> None:
    """A detour by numbers far from zero costs fp16 more digits than the bounds of its precision allow."""
    model, detour = twin(), np.array(256, np.float32)
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    gemm.output[0] = "logits"
    for operator, given, made in (("Add", "logits", "far"), ("Sub", "far", model.graph.output[0].name)):
        model.graph.node.append(helper.make_node(operator, [given, "detour"], [made]))
    model.graph.initializer.append(numpy_helper.from_array(detour, "detour"))
    source = load_source(str(saved(model, tmp_path)), weights="none", seed=0, file=scaled(1))
    reference = ask_source(source, ExportOptions(input_type="uint8", precision="fp16"), name="m")
    usual, allowed = reference.tolerance, reference._tolerance_of_rounding()
    assert usual.max_rel is not None
    assert allowed.max_rel is not None
    scale = max(np.abs(batch).max() for batch in reference.answers)
    assert allowed.max_rel == pytest.approx(min(2 * 2**-3 / scale, 5 * usual.max_rel), rel=0.2)
    assert allowed.max_rel > 1.2 * usual.max_rel


def test_weights_that_are_written_as_nodes_are_weights(tmp_path: Path) -> None:
    """Paddle's converter writes them so; int8, and whoever counts weights, looks for initializers."""
    model = twin()
    usual = load_source(str(saved(model, tmp_path, "usual")), weights="none", seed=0, file=scaled(1))
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    rest = [*model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    source = load_source(str(saved(model, tmp_path)), weights="none", seed=0, file=scaled(1))
    assert isinstance(source, LoadedFile)
    assert isinstance(usual, LoadedFile)
    assert onnx_reader.weight_counts(source.graph) == onnx_reader.weight_counts(usual.graph)
    assert source.operators() == usual.operators() | {"Constant": 1}  # the order of channels is no weight
    np.testing.assert_array_equal(source.logits(pixels()), usual.logits(pixels()))
