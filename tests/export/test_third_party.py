"""Files that somebody else made: what is read from them, what is made of them, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resx.errors import ResxError, UsageError
from resx.export.card import FileArguments, Precision, read_card
from resx.export.pipeline import ExportOptions, export_version
from resx.export.runtimes import OnnxRuntimeModel
from resx.export.source import NOTHING_GIVEN, load_source
from resx.export.third_party import LoadedFile
from resx.serving.deploy import deploy
from resx.serving.publishing import export_into
from resx.serving.repository import Repository
from resx.serving.triton_config import ServingOptions
from resx.serving.verification import LabelledData, verify_version
from tests.conftest import Finished, RunningTriton

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def network(
    *, shape: tuple[int | str, ...] = ("batch", 3, 8, 8), data_type: int = TensorProto.FLOAT, opset: int = 17,
    softmax: bool = False, scale: float = 0.1, classes: int = 7,
) -> ModelProto:  # fmt: skip
    """A convolution, pooling and a linear layer with random weights; without an image only the last."""
    random = np.random.default_rng(0)
    nodes, channels = [], shape[1]
    assert isinstance(channels, int)
    weights = {"w2": random.normal(0, scale, (classes, 5 if len(shape) == 4 else channels)).astype(np.float32)}
    source = "given"
    if data_type != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["given"], ["float"], to=TensorProto.FLOAT))
        source = "float"
    if len(shape) == 4:
        weights["w1"] = random.normal(0, scale, (5, channels, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, "w1"], ["c"], pads=[1, 1, 1, 1], name="first"))
        nodes.append(helper.make_node("Relu", ["c"], ["r"]))
        nodes.append(helper.make_node("GlobalAveragePool", ["r"], ["p"]))
        nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
        source = "f"
    nodes.append(helper.make_node("Gemm", [source, "w2"], ["scores"], transB=1))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["answer"], axis=1))
    graph = helper.make_graph(
        nodes, "somebody's",
        [helper.make_tensor_value_info("given", data_type, shape)],
        [helper.make_tensor_value_info("answer" if softmax else "scores", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"author": "somebody"})
    return model


def saved(model: ModelProto, folder: Path, name: str = "theirs") -> Path:
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def loaded(path: Path, arguments: FileArguments = NOTHING_GIVEN, image_size: int | None = None) -> LoadedFile:
    source = load_source(str(path), weights="none", seed=0, image_size=image_size, file=arguments)
    assert isinstance(source, LoadedFile)
    return source


@pytest.mark.parametrize(
    ("shape", "data_type", "batch"),
    [
        (("batch", 3, 8, 8), TensorProto.FLOAT, None),
        (("batch", 3, 8, 8), TensorProto.UINT8, None),
        ((1, 3, 8, 8), TensorProto.FLOAT, 1),
        ((4, 3, 8, 6), TensorProto.UINT8, 4),
        (("n", 1, 8, 8), TensorProto.FLOAT, None),
        (("n", 12), TensorProto.FLOAT, None),
    ],
)
def test_the_signature_is_read_from_the_file(
    tmp_path: Path, shape: tuple[int | str, ...], data_type: int, batch: int | None
) -> None:
    signature = loaded(saved(network(shape=shape, data_type=data_type), tmp_path)).signature
    assert (signature.input_name, signature.input_dims, signature.batch) == ("given", shape[1:], batch)
    assert signature.input_type == ("uint8" if data_type == TensorProto.UINT8 else "float32")
    assert (signature.output_name, signature.output_dims) == ("scores", (7,))
    assert (signature.resize is not None) == (shape[1] == 3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [("n", 3, 8, 8), (2, 3, 8, 8), ("n", 12)])
def test_what_is_made_of_it_computes_the_same(
    tmp_path: Path, precision: Precision, shape: tuple[int | str, ...]
) -> None:
    source = loaded(saved(network(shape=shape), tmp_path))
    folder = tmp_path / "version"
    folder.mkdir()
    card = export_version(
        source, ExportOptions(precision=precision, input_type="float32"), folder, name="theirs", command="a test"
    )
    assert card.steps[-1].passed
    assert card.fp16_share == (1.0 if precision == "fp16" else 0.0)
    rows = np.random.default_rng(3).integers(0, 256, (2, *source.signature.input_dims), dtype=np.uint8)
    answer = OnnxRuntimeModel(folder / "model.onnx")(source.signature.as_input(rows))
    np.testing.assert_allclose(answer, source.logits(rows), atol=2e-2 if precision == "fp16" else 1e-6)
    assert read_card(folder) == card


def test_the_makers_metadata_stay_and_ours_are_added(tmp_path: Path) -> None:
    source = loaded(saved(network(), tmp_path))
    export_version(source, ExportOptions(input_type="float32"), tmp_path, name="theirs", command="a test")
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert properties["author"] == "somebody"
    assert properties["resx.source_sha256"] == source.description.weights_sha256


def test_weights_that_were_inputs_become_constants(tmp_path: Path) -> None:
    model = network()
    model.ir_version = 3
    weights = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
    model.graph.input.extend(weights)
    source = loaded(saved(model, tmp_path))
    export_version(source, ExportOptions(input_type="float32"), tmp_path, name="theirs", command="a test")
    assert [value.name for value in onnx.load(tmp_path / "model.onnx").graph.input] == ["given"]


def test_external_data_are_taken_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="theirs.bin", size_threshold=0)
    source = loaded(path)
    folder = tmp_path / "version"
    folder.mkdir()
    export_version(source, ExportOptions(input_type="float32"), folder, name="theirs", command="a test")
    (tmp_path / "theirs.bin").unlink()
    assert OnnxRuntimeModel(folder / "model.onnx")(np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 7)


def test_normalisation_comes_from_the_user_then_the_file_then_imagenet(tmp_path: Path) -> None:
    model = network()
    path = saved(model, tmp_path)
    assert loaded(path).signature.mean == (0.485, 0.456, 0.406)
    helper.set_model_props(model, {"resx.mean": "0.1,0.2,0.3", "resx.std": "1,1,1"})
    path = saved(model, tmp_path)
    assert loaded(path).signature.mean == (0.1, 0.2, 0.3)
    assert loaded(path, FileArguments(mean=(0.5, 0.5, 0.5))).signature.mean == (0.5, 0.5, 0.5)


def test_an_open_size_is_closed_by_image_size(tmp_path: Path) -> None:
    path = saved(network(shape=("n", 3, "h", "w")), tmp_path)
    with pytest.raises(UsageError, match="open in an axis other than the batch; fix it with --image-size"):
        loaded(path)
    assert loaded(path, image_size=10).signature.input_dims == (3, 10, 10)
    with pytest.raises(UsageError, match="--image-size 10"):
        loaded(saved(network(), tmp_path), image_size=10)


def two_inputs() -> ModelProto:
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["n", 1]))
    return model


def two_outputs() -> ModelProto:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 5]))
    return model


def not_finite() -> ModelProto:
    return network(scale=float("nan"))


def future_opset() -> ModelProto:
    model = network()
    model.opset_import[0].version = 999
    return model


def fixed_inside() -> ModelProto:
    """The batch is symbolic in the input's type only."""
    model = network()
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.CopyFrom(helper.make_node("Reshape", ["p", "to"], ["f"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 5]), "to"))
    return model


def unknown_operator() -> ModelProto:
    model = network()
    model.opset_import.append(helper.make_opsetid("their.domain", 1))
    model.graph.node[1].domain = "their.domain"
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (two_inputs, r"has 2 inputs \(given, second\)"),
        (two_outputs, r"has 2 outputs \(scores, f\)"),
        (lambda: network(data_type=TensorProto.INT64), r"takes given INT64 \[batch, 3, 8, 8\]; .* uint8 or float32"),
        (not_finite, r"weight w2 is not finite"),
        (future_opset, r"opset 999, and onnx .* knows"),
        (fixed_inside, r"takes a batch of 3, but fails on it: "),
        (unknown_operator, r"onnxruntime refuses it"),
        (lambda: network(shape=("n", 0, 8, 8)), r"open in an axis other than the batch"),
    ],
    ids=["two inputs", "two outputs", "int64", "NaN", "opset", "fixed inside", "unknown operator", "empty"],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    tmp_path: Path, model: Callable[[], ModelProto], reason: str
) -> None:
    path = saved(model(), tmp_path)
    with pytest.raises(ResxError, match=reason) as refusal:
        loaded(path).require_finite()
    assert "\n" not in str(refusal.value)


def test_a_refused_file_is_one_line_and_nothing_published(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    done = resx("export", saved(fixed_inside(), tmp_path), "-q")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert not (tmp_path / "model_repository").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = network().SerializeToString()
    (tmp_path / "short.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("this is no protobuf")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("short", "text", "empty"):
        with pytest.raises(UsageError, match="ONNX model"):
            loaded(tmp_path / f"{name}.onnx")
    onnx.save(network(), tmp_path / "far.onnx", save_as_external_data=True, location="far.bin", size_threshold=0)
    (tmp_path / "far.bin").unlink()
    with pytest.raises(UsageError, match="its weights lie in far.bin, which is not beside it"):
        loaded(tmp_path / "far.onnx")
    with pytest.raises(UsageError, match="no such file"):
        loaded(tmp_path / "none.onnx")


def test_accuracy_of_a_file_of_a_fixed_batch_is_measured_in_its_batches(tmp_path: Path) -> None:
    source = loaded(saved(network(shape=(4, 3, 16, 16), classes=10), tmp_path))
    options = ExportOptions(input_type="float32")
    _, version = export_into(
        Repository(tmp_path / "repository"), source, options, ServingOptions(), name="theirs", command="a test"
    )
    found = verify_version(version.folder, None, LabelledData(name="digits", num_images=10))
    assert found.accuracies is not None
    assert found.accuracies.num_images == 10
    assert found.accuracies.shares["source"] == found.accuracies.shares["file"]


@pytest.mark.triton
def test_a_files_answers_are_served_under_its_own_names(
    tmp_path: Path, triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    """Three files that differ in all that the configuration says: open batch, fixed batch with a softmax, no image."""
    labels = tmp_path / "labels"
    labels.write_text("".join(f"thing {index}\n" for index in range(7)))
    flags = (f"--repository={triton.repository.root}",)
    for name, shape, file in (
        ("their_open", ("n", 3, 8, 8), FileArguments(labels=str(labels))),
        ("their_three", (3, 3, 8, 8), FileArguments(labels=str(labels))),
        ("their_rows", ("n", 12), FileArguments()),
    ):
        source = loaded(saved(network(shape=shape, softmax=name == "their_three"), tmp_path, name), file)
        options = ExportOptions(input_type="float32")
        export_into(triton.repository, source, options, ServingOptions(), name=name, command="a test")
        with triton.client() as client:
            deploy(client, triton.repository, name)
    assert resx("verify", "their_three", "--served", triton.url(), *flags, "-q").code == 0

    from PIL import Image

    photograph = tmp_path / "photograph.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(photograph)
    for name in ("their_open", "their_three"):
        done = resx("query", name, *[photograph] * 4, "--top", "7", "--json", *flags)
        assert done.code == 0, done.err
        tops = [entry["top"] for entry in done.json["images"]]
        assert len(tops) == 4
        assert all(top == tops[0] for top in tops)
        assert sum(guess["probability"] for guess in tops[0]) == pytest.approx(1, abs=1e-4)
        assert {guess["label"] for guess in tops[0]} == {f"thing {index}" for index in range(7)}
    done = resx("query", "their_rows", photograph, *flags)
    assert (done.code, "takes [12], not RGB images" in done.err) == (2, True)
    with triton.client() as client:
        for name in ("their_open", "their_three", "their_rows"):
            client.unload(name)


@pytest.mark.triton
@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_graphs_of_the_onnx_package_reach_a_served_answer(triton: RunningTriton, path: Path) -> None:
    source = loaded(path)
    options = ExportOptions(input_type="float32")
    export_into(triton.repository, source, options, ServingOptions(), name=path.stem, command="a test")
    with triton.client() as client:
        assert deploy(client, triton.repository, path.stem).canary_difference <= 1e-3
        client.unload(path.stem)
