"""int8: calibrated on what was given, measured against its source, and in fp32 only where it must be."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from resx.card.card import Card, read_card
from resx.card.kinds import TARGETS, Target
from resx.card.signature import signature_of
from resx.errors import MissingCapability, ParityError, UsageError
from resx.export.checks import parity
from resx.export.graph import onnx_writer
from resx.export.int8 import calibration, quantization, sensitivity
from resx.export.int8.calibration import Calibration, load_calibration
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources.source import LoadedSource
from resx.runtimes import onnx_reader
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.zoo.building import build_from_spec
from tests.support.int8_models import PHOTOGRAPHS, options, source, taught, tiny
from tests.support.small_networks import tiny_densenet, with_statistics
from tests.support.tiny_models import tiny_spec


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RESX_CACHE", str(folder))
    return folder


def with_an_outlier(*blocks: str) -> LoadedSource:
    """A network with, in each of the blocks, one channel 10,000 times the others, which the next layer takes back.

    It computes what it did; 8 bits over the whole tensor leave the other channels nothing.
    """
    spec = tiny_spec()
    model = taught(with_statistics(build_from_spec(spec, seed=0)), spec)
    for name in blocks:
        weights = dict(model.get_submodule(name).named_parameters())
        with torch.no_grad():
            weights["bn1.weight"][0] *= 1e4
            weights["bn1.bias"][0] *= 1e4
            weights["conv2.weight"][:, 0] *= 1e-4
    return source(model, spec)


def export(loaded: LoadedSource, how: ExportOptions, folder: Path) -> Card:
    return export_version(loaded, how, folder, name="m", command="a test")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["entropy", "minmax", "percentile"])
def test_an_int8_file_answers_as_its_source_does_and_the_card_says_how(
    target: Target, method: str, tmp_path: Path
) -> None:
    card = export(tiny(), options(target=target, method=method), tmp_path)
    made_of, step = card.steps
    assert made_of.step == "fp32 file"
    assert made_of.tolerance == parity.TOLERANCES["fp32"]
    assert step.passed
    assert step.cosine is not None
    assert step.cosine > 0.99
    assert step.batch_sizes == (1, 2, 4)
    assert card.quantisation is not None
    assert card.quantisation.int8_share > 0.95
    assert (card.quantisation.num_images, card.quantisation.method, card.target) == (20, method, target)
    assert card.quantisation.kept_fp32 == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "model.onnx"]
    assert read_card(tmp_path) == card


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_gets_its_recipe(target: Target, tmp_path: Path) -> None:
    export(tiny(), options(target=target), tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zero_points = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith("zero_point")
    }
    activations = [
        zero_points[node.input[2]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in kinds
    ]
    biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    assert biases
    if target == "cpu":
        assert {zero.dtype.name for zero in activations} == {"uint8"}
        assert onnx.TensorProto.INT32 in kinds.values()
    else:
        assert {(zero.dtype.name, int(zero)) for zero in activations} == {("int8", 0)}
        assert {kinds[bias] for bias in biases} == {onnx.TensorProto.FLOAT}
        assert onnx.TensorProto.INT32 not in kinds.values()
    per_channel = [zero for zero in zero_points.values() if zero.ndim == 1 and len(zero) > 1]
    assert per_channel


def test_the_normalisation_stays_in_fp32(tmp_path: Path) -> None:
    export(tiny(), options(), tmp_path)
    first = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert first.index("QuantizeLinear") > max(first.index("Cast"), first.index("Mul"))


def test_densenets_batch_norms_are_quantised_for_the_cpu(tmp_path: Path) -> None:
    spec = tiny_densenet()
    loaded = source(taught(with_statistics(build_from_spec(spec, seed=0)), spec), spec)
    card = export(loaded, options(verify=False), tmp_path)
    assert card.quantisation is not None
    assert card.quantisation.int8_share > 0.95
    assert card.operators_before["BatchNormalization"] > 0
    assert "BatchNormalization" not in card.operators_after
    assert "Relu" not in card.operators_after


def test_a_layer_the_user_names_stays_in_fp32(tmp_path: Path) -> None:
    card = export(tiny(), options(keep_fp32=("layer3.*", "fc")), tmp_path)
    assert card.quantisation is not None
    kept = [layer.layer for layer in card.quantisation.kept_fp32]
    assert kept == ["layer3.0.conv1", "layer3.0.conv2", "fc"]
    model = onnx.load(tmp_path / "model.onnx")
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in onnx_writer.WEIGHTED:
            assert (made.get(node.input[1]) == "DequantizeLinear") == (node.name not in kept)


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--keep-fp32 layer3.0.conv9: matches no node; did you mean layer3.0.conv"):
        export(tiny(), options(keep_fp32=("layer3.0.conv9",)), tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_the_search_puts_back_the_layers_beside_the_tensor_that_8_bits_ruin(target: Target, tmp_path: Path) -> None:
    loaded = with_an_outlier("layer2.0")
    card = export(loaded, options(target=target), tmp_path)
    assert card.steps[-1].passed
    assert card.quantisation is not None
    kept = {layer.layer: layer.error for layer in card.quantisation.kept_fp32}
    assert set(kept) <= {"layer2.0.conv1", "layer2.0.conv2"}
    assert kept
    assert all(error is not None and error > 0.5 for error in kept.values())
    assert card.quantisation.num_tried > 0


def test_without_the_search_that_file_would_not_have_passed(tmp_path: Path) -> None:
    loaded = with_an_outlier("layer2.0")
    card = export(loaded, options(verify=False), tmp_path)
    assert card.quantisation is not None
    assert card.quantisation.kept_fp32 == ()
    real = loaded.real.images
    reference = parity.torch_logits(loaded.model, loaded.description.spec, real)
    answer = OnnxRuntimeModel(tmp_path / "model.onnx")(real)
    assert not parity.compare("int8", [reference], [answer], parity.TOLERANCES["int8"]).passed


def test_where_half_the_layers_do_not_help_nothing_is_written_and_the_reason_is_said(tmp_path: Path) -> None:
    """Every block has an outlier, so that more than half of the layers would have to stay in fp32."""
    loaded = with_an_outlier("layer1.0", "layer2.0", "layer3.0")
    with pytest.raises(
        ParityError, match=r"most sensitive of 8 layers.*another --calibrate-method.*nothing was published"
    ):
        export(loaded, options(), tmp_path)
    assert not (tmp_path / "card.json").exists()


def test_a_miss_on_random_weights_says_that_they_are_harder(tmp_path: Path) -> None:
    loaded = with_an_outlier("layer1.0", "layer2.0", "layer3.0")
    random = loaded.description.model_copy(update={"weights": "random (seed 0)"})
    with pytest.raises(ParityError, match=r"random weights lose more accuracy in int8.*or set --weights"):
        export(dataclasses.replace(loaded, description=random), options(), tmp_path)


def test_the_fewest_layers_are_found_by_halving_and_taking_out() -> None:
    ranking = [f"layer{number}" for number in range(32)]
    asked = []

    def passes(kept: Sequence[str]) -> bool:
        asked.append(tuple(kept))
        return {"layer3", "layer9"} <= set(kept)

    found = sensitivity.fewest(ranking, passes)
    assert found is not None
    assert set(found[0]) == {"layer3", "layer9"}
    assert found[1] == len(asked)
    assert len(asked) < 16
    assert sensitivity.fewest(ranking, lambda _kept: False) is None
    assert sensitivity.fewest([], lambda _kept: True) is None


def test_a_second_export_takes_the_first_ones_table(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        export_version(tiny(), options(), folder, name="m", command="x", on_step=said.append)
    calibrate = "calibrate on 20 images (minmax)"
    assert [step for step in said if step.startswith(calibrate)] == [calibrate, f"{calibrate}: 20 of 20 images"]
    assert "reuse the calibration of an earlier export" in said
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    (table,) = (cache / "calibration").iterdir()
    table.write_text("{")  # damaged: made anew
    (tmp_path / "c").mkdir()
    export_version(tiny(), options(), tmp_path / "c", name="m", command="x", on_step=said.append)
    assert said.count(calibrate) == 2


def test_a_tables_key_depends_on_weights_images_and_method(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    one, other = (Calibration(images=images, origin="") for images in (PHOTOGRAPHS[:2], PHOTOGRAPHS[2:4]))
    keys = {
        calibration.table_key(tmp_path / "a", one, "minmax"),
        calibration.table_key(tmp_path / "b", one, "minmax"),
        calibration.table_key(tmp_path / "a", other, "minmax"),
        calibration.table_key(tmp_path / "a", one, "entropy"),
    }
    assert len(keys) == 4
    assert calibration.table_key(tmp_path / "a", one, "minmax") in keys


def test_a_wrong_direction_fails_the_cosine_and_a_scale_does_not() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 10))
    bar = parity.TOLERANCES["int8"]
    assert parity.compare("onnx", [logits], [logits * 3], bar).cosine == pytest.approx(1.0)
    assert not parity.compare("onnx", [logits], [-logits], bar).passed


def test_weights_that_are_not_finite_are_refused_before_the_work(tmp_path: Path) -> None:
    loaded = tiny()
    with torch.no_grad():
        loaded.model.get_submodule("layer1.0.conv1").weight[0, 0, 0, 0] = float("nan")  # type: ignore[index, union-attr]
    with pytest.raises(UsageError, match=r"1 weights are not finite \(layer1.0.conv1.weight\)"):
        export(loaded, options(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_bf16_is_written_and_refused_where_nothing_computes_it(tmp_path: Path) -> None:
    spec = tiny_spec()
    model = build_from_spec(spec, seed=0).eval()
    file = onnx_writer.write_onnx(model, spec, tmp_path / "m.onnx", precision="bf16", input_type="uint8")
    num_weights, num_short = onnx_reader.weight_counts(file)
    assert num_short / num_weights > 0.95
    with pytest.raises(MissingCapability, match="use --fp16"):
        export_version(tiny(), ExportOptions(precision="bf16", target="gpu"), tmp_path, name="m", command="x")


def test_int8_without_calibration_is_refused_and_so_is_calibration_without_int8() -> None:
    with pytest.raises(UsageError, match="int8 needs it"):
        ExportOptions(precision="int8")
    with pytest.raises(UsageError, match="belongs to int8"):
        ExportOptions(int8=options().int8)


def load(text: str | Path, *, num_images: int = 8) -> Calibration:
    return load_calibration(str(text), signature_of(tiny_spec(), "uint8"), num_images=num_images, seed=0, run=None)


def test_a_folder_gives_its_images_as_a_query_would_see_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    colored = np.full((30, 50, 3), (10, 20, 30), np.uint8)
    colored[:, :20] = 200  # a folder of plain images would be refused
    Image.fromarray(colored).save(tmp_path / "a.png")
    Image.fromarray(np.full((20, 20), 7, np.uint8)).save(tmp_path / "deep" / "grey.png")
    (tmp_path / "notes.txt").write_text("no image")
    found = load(tmp_path)
    assert found.images.shape == (2, 3, 16, 16)
    assert found.images[0, :, 8, 12].tolist() == [10, 20, 30]
    assert found.images[1, :, 8, 12].tolist() == [7, 7, 7]
    assert len(load(tmp_path, num_images=1).images) == 1


def test_hidden_files_of_a_calibration_folder_are_skipped_and_counted(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / os.fsdecode(b"c\xe9")
    for folder in (root, root / ".ipynb_checkpoints", root / "__MACOSX"):
        folder.mkdir(parents=True)
        Image.fromarray(PHOTOGRAPHS[0].transpose(1, 2, 0)).save(folder / "a.png")
    (root / "._a.png").write_bytes(b"\0\5\26\7" + bytes(4092))

    found = load(root)

    assert len(found.images) == 1
    assert found.origin == f"images of {tmp_path}/.cache/c\\xe9; skipped 3 hidden files or folders"
    (root / "a.png").unlink()
    with pytest.raises(UsageError, match=r"contains no images .*; skipped 3 hidden files or folders; give"):
        load(root)


def test_images_that_cannot_be_calibrated_on_are_counted_and_named(tmp_path: Path) -> None:
    Image.fromarray(PHOTOGRAPHS[0].transpose(1, 2, 0)).save(tmp_path / "a.jfif", "JPEG")
    for name in ("b.heic", "c.HEIC", "d.svg", "labels.csv"):
        (tmp_path / name).write_bytes(b"x")

    skipped = "skipped 1 non-image file (.csv), 2 .heic files and 1 .svg file: convert them to JPEG or PNG"
    assert load(tmp_path).origin == f"images of {tmp_path}; {skipped}"
    (tmp_path / "a.jfif").unlink()
    with pytest.raises(UsageError) as raised:
        load(tmp_path)
    assert f"; {skipped}; give" in str(raised.value)


def test_digits_and_noise_are_taken_by_name() -> None:
    digits, noise = load("digits"), load("random")
    assert digits.images.shape == noise.images.shape == (8, 3, 16, 16)
    assert (digits.is_random, noise.is_random) == (False, True)
    assert load("random").sha256 == noise.sha256 != digits.sha256


def test_an_npz_gives_its_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", PHOTOGRAPHS)
    assert np.array_equal(load(tmp_path / "x.npz", num_images=40).images, PHOTOGRAPHS)
    np.savez(tmp_path / "y.npz", images=PHOTOGRAPHS, labels=np.zeros(40))
    assert len(load(tmp_path / "y.npz").images) == 8


@pytest.mark.parametrize(
    "array",
    [
        PHOTOGRAPHS[:, :1], PHOTOGRAPHS[:, :, :8], PHOTOGRAPHS.transpose(0, 2, 3, 1), PHOTOGRAPHS[0], PHOTOGRAPHS[:0],
        PHOTOGRAPHS.astype(np.float32), PHOTOGRAPHS.repeat(2, 1)[:, :4],
    ],
    ids=["grey", "size", "channels last", "one image", "none", "float", "four channels"],
)  # fmt: skip
def test_an_array_of_another_shape_or_type_is_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", array)
    with pytest.raises(UsageError, match=r"give uint8 \[N, 3, 16, 16\]"):
        load(tmp_path / "x.npz")


def test_data_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"\x89PNG nonsense")
    (tmp_path / "strip").mkdir()
    Image.new("RGB", (1, 300_000)).save(tmp_path / "strip" / "x.png")
    (tmp_path / "float").mkdir()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float" / "x.tif")
    (tmp_path / "broken.npz").write_bytes(b"PK nonsense")
    np.savez(tmp_path / "two.npz", a=PHOTOGRAPHS, b=PHOTOGRAPHS)
    np.savez(tmp_path / "object.npz", np.array([{}], dtype=object))
    for text, message in (
        ("empty", "contains no images"),
        ("bad", "x.png: not an image"),
        ("strip", "strip/x.png: image of 1 x 300000 pixels"),
        ("float", "x.tif: the value range of floating-point pixels"),
        ("broken.npz", "not a .npz file"),
        ("two.npz", "give one array"),
        ("object.npz", "not a .npz file"),
        ("none.npz", "no such file"),
        ("none", "neither a folder nor"),
    ):
        with pytest.raises(UsageError, match=message):
            load(tmp_path / text)


def test_a_source_without_data_of_its_own_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="give --calibrate digits"):
        calibration.require_data("", has_own_data=False)
    calibration.require_data("", has_own_data=True)
    calibration.require_data("random", has_own_data=False)
    with pytest.raises(UsageError, match="give 1 or more"):
        load("random", num_images=0)


def test_a_prepared_file_keeps_the_names_of_its_layers(tmp_path: Path) -> None:
    loaded = tiny()
    for target in TARGETS:
        file = tmp_path / f"{target}.onnx"
        onnx_writer.write_onnx(
            loaded.model, loaded.description.spec, file, precision="fp32", input_type="uint8", target=target
        )
        quantization.prepare(file, tmp_path / "prepared.onnx", target=target)
        assert quantization.layers(onnx.load(tmp_path / "prepared.onnx"))[:2] == ["conv1", "layer1.0.conv1"]


def with_probabilities(operator: str) -> onnx.ModelProto:
    """Two convolutions and what brings their mean into a range, spelled out where `operator` is Exp."""
    random = np.random.default_rng(2)
    weights = {"a": random.normal(0, 0.3, (8, 3, 3, 3)), "b": random.normal(0, 0.3, (4, 8, 3, 3))}
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "a"], ["c"], name="first"),
        make("Relu", ["c"], ["r"], name="relu"),
        make("Conv", ["r", "b"], ["d"], name="last"),
        make("GlobalAveragePool", ["d"], ["p"], name="pool"),
        make("Flatten", ["p"], ["f"], name="flat"),
    ]
    if operator == "Exp":
        nodes += [
            make("Exp", ["f"], ["e"], name="exp"),
            make("ReduceSum", ["e", "axis"], ["s"], name="sum"),
            make("Div", ["e", "s"], ["y"], name="share"),
        ]
    else:
        nodes.append(make(operator, ["f"], ["y"], name="squash"))
    image, answer = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, 12, 12]), ("y", ["n", 4]))
    )
    tensors = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    tensors.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"))
    graph = onnx.helper.make_graph(nodes, "g", [image], [answer], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(
    ("operator", "names"),
    [("Softmax", ["squash"]), ("Sigmoid", ["squash"]), ("Exp", ["exp", "sum", "share"]), ("Relu", [])],
)
def test_what_makes_probabilities_at_the_end_stays_in_fp32(tmp_path: Path, operator: str, names: list[str]) -> None:
    model = with_probabilities(operator)
    assert quantization.at_the_end(model) == names
    onnx.save(model, tmp_path / "fp32.onnx")
    prepared = tmp_path / "prepared.onnx"
    quantization.prepare(tmp_path / "fp32.onnx", prepared, target="cpu")
    tensors = {name for node in onnx.load(prepared).graph.node for name in (*node.input, *node.output)}
    ranges = dict.fromkeys(tensors, (-1.0, 1.0))
    made = quantization.quantise(prepared, ranges, target="cpu", keep_fp32=[])
    assert quantization.num_int8_weights(made) == 8 * 3 * 9 + 4 * 8 * 9
    (last,) = [node for node in made.graph.node if "y" in node.output]
    assert (last.op_type != "DequantizeLinear") == bool(names)
