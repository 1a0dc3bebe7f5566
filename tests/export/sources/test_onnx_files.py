"""Files that somebody else made: what is read from them, what is made of them, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resx.card.card import read_card
from resx.card.kinds import Precision
from resx.card.origin import FileArguments
from resx.errors import ResxError, UsageError
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.verification import LabelledData, verify_version
from tests.support.command import Finished
from tests.support.onnx_files import load_file, network, saved
from tests.support.running_triton import RunningTriton

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


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
    signature = load_file(saved(network(shape=shape, data_type=data_type), tmp_path)).signature
    assert (signature.input_name, signature.input_dims, signature.batch) == ("given", shape[1:], batch)
    assert signature.input_type == ("uint8" if data_type == TensorProto.UINT8 else "float32")
    assert (signature.output_name, signature.output_dims) == ("scores", (7,))
    assert (signature.resize is not None) == (shape[1] == 3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [("n", 3, 8, 8), (2, 3, 8, 8), ("n", 12)])
def test_what_is_made_of_it_computes_the_same(
    tmp_path: Path, precision: Precision, shape: tuple[int | str, ...]
) -> None:
    source = load_file(saved(network(shape=shape), tmp_path))
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
    source = load_file(saved(network(), tmp_path))
    export_version(source, ExportOptions(input_type="float32"), tmp_path, name="theirs", command="a test")
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert properties["author"] == "somebody"
    assert properties["resx.source_sha256"] == source.description.weights_sha256


def test_weights_that_were_inputs_become_constants(tmp_path: Path) -> None:
    model = network()
    model.ir_version = 3
    weights = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
    model.graph.input.extend(weights)
    source = load_file(saved(model, tmp_path))
    export_version(source, ExportOptions(input_type="float32"), tmp_path, name="theirs", command="a test")
    assert [value.name for value in onnx.load(tmp_path / "model.onnx").graph.input] == ["given"]


def test_external_data_are_taken_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="theirs.bin", size_threshold=0)
    source = load_file(path)
    folder = tmp_path / "version"
    folder.mkdir()
    export_version(source, ExportOptions(input_type="float32"), folder, name="theirs", command="a test")
    (tmp_path / "theirs.bin").unlink()
    assert OnnxRuntimeModel(folder / "model.onnx")(np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 7)


def test_normalisation_comes_from_the_user_then_the_file_then_imagenet(tmp_path: Path) -> None:
    model = network()
    path = saved(model, tmp_path)
    assert load_file(path).signature.mean == (0.485, 0.456, 0.406)
    helper.set_model_props(model, {"resx.mean": "0.1,0.2,0.3", "resx.std": "1,1,1"})
    path = saved(model, tmp_path)
    assert load_file(path).signature.mean == (0.1, 0.2, 0.3)
    assert load_file(path, FileArguments(mean=(0.5, 0.5, 0.5))).signature.mean == (0.5, 0.5, 0.5)


def test_an_open_size_is_closed_by_image_size(tmp_path: Path) -> None:
    path = saved(network(shape=("n", 3, "h", "w")), tmp_path)
    with pytest.raises(UsageError, match="with a dynamic axis besides the batch; set --image-size"):
        load_file(path)
    assert load_file(path, image_size=10).signature.input_dims == (3, 10, 10)
    with pytest.raises(UsageError, match="--image-size 10"):
        load_file(saved(network(), tmp_path), image_size=10)


@pytest.mark.parametrize("unknown", [-1, 0, "unk__123", None])
def test_a_batch_that_a_converter_did_not_know_is_open(tmp_path: Path, unknown: int | str | None) -> None:
    model = network()
    for value in (*model.graph.input, *model.graph.output):
        dim = value.type.tensor_type.shape.dim[0]
        dim.Clear()
        if unknown is not None:
            setattr(dim, "dim_param" if isinstance(unknown, str) else "dim_value", unknown)
    source = load_file(saved(model, tmp_path))
    assert source.signature.batch is None
    export_version(source, ExportOptions(input_type="float32"), tmp_path, name="theirs", command="a test")
    assert len(OnnxRuntimeModel(tmp_path / "model.onnx")(np.zeros((5, 3, 8, 8), np.float32))) == 5


@pytest.mark.parametrize("shape", [(-1, 3, -1, -1), (0, 3, 0, 0), ("a", "b", "c", "d"), ("unk", "unk", "unk", "unk")])
def test_sizes_that_a_converter_did_not_know_are_closed_by_image_size(
    tmp_path: Path, shape: tuple[int | str, ...]
) -> None:
    model = network()
    dims = helper.make_tensor_type_proto(TensorProto.FLOAT, shape).tensor_type.shape
    model.graph.input[0].type.tensor_type.shape.CopyFrom(dims)
    path = saved(model, tmp_path)
    with pytest.raises(UsageError, match="set --image-size"):
        load_file(path)
    assert load_file(path, image_size=10).signature.input_dims == (3, 10, 10)


def test_a_batch_that_was_fixed_inside_is_refused_though_its_size_reads_minus_one(tmp_path: Path) -> None:
    model = fixed_inside()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    with pytest.raises(UsageError, match=r"fails on an input \[3, 3, 8, 8\].*; it declares a batch of 3"):
        load_file(saved(model, tmp_path))


@pytest.mark.parametrize("output", ["scores", "f"])
def test_one_of_several_outputs_is_exported_without_what_only_the_others_need(tmp_path: Path, output: str) -> None:
    path = saved(two_outputs(), tmp_path)
    source = load_file(path, FileArguments(output=output))
    repository = Repository(tmp_path / "repository")
    card, version = export_into(
        repository, source, ExportOptions(input_type="float32"), ServingOptions(), name="m", command="a test"
    )
    written = onnx.load(version.folder / "model.onnx").graph
    assert [value.name for value in written.output] == [output]
    assert [tensor.name for tensor in written.initializer] == (["w2", "w1"] if output == "scores" else ["w1"])
    assert card.signature.output_dims == ((7,) if output == "scores" else (5,))
    assert verify_version(version.folder, None, LabelledData()).again is not None  # loads the card's source again


def test_an_input_that_only_another_output_needs_is_cut_off_too(tmp_path: Path) -> None:
    model = two_inputs()
    model.graph.node.append(helper.make_node("Relu", ["second"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 1]))
    source = load_file(saved(model, tmp_path), FileArguments(output="scores"))
    assert source.signature.input_name == "given"
    assert source.logits(np.zeros((2, 3, 8, 8), np.uint8)).shape == (2, 7)


def test_what_an_inner_graph_reads_is_kept_when_an_output_is_cut_off(tmp_path: Path) -> None:
    model = two_outputs()
    inner = helper.make_graph(
        [helper.make_node("Relu", ["scores"], ["a"])],
        "inner",
        [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["last"], then_branch=inner, else_branch=inner))
    model.graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, ["n", 7]))
    source = load_file(saved(model, tmp_path), FileArguments(output="last"))
    assert source.logits(np.zeros((2, 3, 8, 8), np.uint8)).shape == (2, 7)


def test_an_output_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no output logits; give one of scores, f"):
        load_file(saved(two_outputs(), tmp_path), FileArguments(output="logits"))


@pytest.mark.parametrize("text", ["abc", "1,2", "1,2,3,4", "", "nan,1,1", "inf,1,1", "1e300,1,1", "0.5;0.5;0.5"])
@pytest.mark.parametrize("key", ["resx.mean", "resx.std"])
def test_metadata_that_are_no_normalization_are_one_line_and_an_option_overrides_them(
    tmp_path: Path, key: str, text: str
) -> None:
    model = network()
    helper.set_model_props(model, {key: text})
    path = saved(model, tmp_path)
    with pytest.raises(UsageError, match=rf"theirs.onnx: metadata {key} .*: give three numbers") as refusal:
        load_file(path)
    assert "\n" not in str(refusal.value)
    given = FileArguments(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert load_file(path, given).signature.std == (1.0, 1.0, 1.0)
    helper.set_model_props(model, {"resx.std": "0,1,1"})
    with pytest.raises(UsageError, match="from 0.000001"):
        load_file(saved(model, tmp_path))


def test_the_export_says_which_normalization_was_assumed(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    path = saved(network(), tmp_path)
    done = resx("export", path, "-q")
    assert done.code == 0, done.err
    assert (
        "0.229, 0.224, 0.225 (ImageNet's, assumed); the file does not say: change it with --mean and --std" in done.out
    )
    done = resx("export", path, "--mean", "0,0,0", "--std", "1,1,1", "--json")
    assert done.json["normalization"]["mean_from"] == "option"
    card = read_card(tmp_path / "model_repository" / "theirs" / "2")
    assert card.source.normalization is not None
    assert card.source.normalization.std_from == "option"


def test_a_suffix_in_capitals_is_an_onnx_file(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    path = saved(network(), tmp_path).rename(tmp_path / "M.ONNX")
    assert load_file(path).name == "M"
    assert resx("info", path, "--json").json["kind"] == "onnx file"
    assert resx("verify", path, path, "-q").code == 0


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
        (lambda: network(data_type=TensorProto.INT64), r"input is given INT64 \[batch, 3, 8, 8\]; .* uint8 or float32"),
        (not_finite, r"weight w2 is not finite"),
        (future_opset, r"opset 999, but onnx .* supports"),
        (fixed_inside, r"fails on an input \[3, 3, 8, 8\]: .*; it declares a batch of 3"),
        (unknown_operator, r"onnxruntime rejects it"),
        (lambda: network(shape=("n", 0, 8, 8)), r"with a dynamic axis besides the batch"),
    ],
    ids=["two inputs", "two outputs", "int64", "NaN", "opset", "fixed inside", "unknown operator", "empty"],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    tmp_path: Path, model: Callable[[], ModelProto], reason: str
) -> None:
    path = saved(model(), tmp_path)
    with pytest.raises(ResxError, match=reason) as refusal:
        load_file(path).require_finite()
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
            load_file(tmp_path / f"{name}.onnx")
    onnx.save(network(), tmp_path / "far.onnx", save_as_external_data=True, location="far.bin", size_threshold=0)
    (tmp_path / "far.bin").unlink()
    with pytest.raises(UsageError, match="its weights are in far.bin, which is missing"):
        load_file(tmp_path / "far.onnx")
    with pytest.raises(UsageError, match="no such file"):
        load_file(tmp_path / "none.onnx")


def test_accuracy_of_a_file_of_a_fixed_batch_is_measured_in_its_batches(tmp_path: Path) -> None:
    source = load_file(saved(network(shape=(4, 3, 16, 16), classes=10), tmp_path))
    options = ExportOptions(input_type="float32")
    _, version = export_into(
        Repository(tmp_path / "repository"), source, options, ServingOptions(), name="theirs", command="a test"
    )
    found = verify_version(version.folder, None, LabelledData(name="digits", num_images=10))
    assert found.accuracies is not None
    assert found.accuracies.num_images == 10
    assert found.accuracies.shares["source"] == found.accuracies.shares["file"]


def test_a_line_of_the_labels_is_a_label_with_all_its_characters(tmp_path: Path) -> None:
    file, labels = saved(network(classes=7), tmp_path), tmp_path / "labels.txt"
    names = ("first", "a b", " c ", "n01\ttench", "Gro\xdfe Katze", "\u732b", "last")
    labels.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(names).encode())
    assert load_file(file, FileArguments(labels=str(labels))).description.signature.labels == names

    for bad, shown in (("a\u2028b", r"a\\u2028b"), ("a\vb", r"a\\x0bb"), ("a\x85b", r"a\\x85b"), ("\udce9", r"\\xe9")):
        labels.write_bytes("\n".join([*names[1:], bad]).encode("utf-8", "surrogateescape"))
        with pytest.raises(UsageError, match=f"--labels .*: '{shown}': a class's name is one line of UTF-8"):
            load_file(file, FileArguments(labels=str(labels)))
    labels.write_text("\n".join(names), "utf-16")
    with pytest.raises(UsageError, match=r"labels\.txt: not UTF-8 text"):
        load_file(file, FileArguments(labels=str(labels)))


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
        source = load_file(saved(network(shape=shape, softmax=name == "their_three"), tmp_path, name), file)
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
    source = load_file(path)
    options = ExportOptions(input_type="float32")
    export_into(triton.repository, source, options, ServingOptions(), name=path.stem, command="a test")
    with triton.client() as client:
        assert deploy(client, triton.repository, path.stem).canary_difference <= 1e-3
        client.unload(path.stem)
