"""Counters of both runtimes, joined to the file's layers and blocks."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resx.card.runtime import RUNTIMES, PrecisionHint, RuntimeName
from resx.errors import ExportError, MissingCapability, UsageError
from resx.export.graph.onnx_writer import write_onnx
from resx.export.graph.survival_folding import fold_survival
from resx.runtimes.profiling.attribution import attribute
from resx.runtimes.profiling.counters import Counts, RuntimeNode
from resx.runtimes.profiling.layer_times import blocks_of, layers_of, sum_up
from resx.runtimes.profiling.measuring import ProfileOptions, measure
from resx.runtimes.profiling.onnx_source import onnx_subject
from resx.runtimes.profiling.profile import Layer
from resx.runtimes.profiling.profiling import _busy, profile_model
from resx.runtimes.profiling.source_graph import SourceNode, blocks_of_nodes
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import VARIANTS
from resx.zoo.families.stochastic_depth import StochasticBranch
from tests.support.small_networks import small_network

RUNS = 3


def written(kind: str, folder: Path) -> ModelProto:
    model, spec = small_network(kind)
    return write_onnx(fold_survival(model), spec, folder / "m.onnx", precision="fp32", input_type="uint8", target="cpu")


def counted(model: ModelProto, runtime: RuntimeName = "onnxruntime", hint: PrecisionHint = "f32") -> tuple[Layer, ...]:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    options = ProfileOptions(runtime=runtime, precision_hint=hint, threads=1, num_runs=RUNS)
    subject = onnx_subject(model, options, "m")
    return layers_of(measure(subject, options, peaks=False).counts, subject.source, {})


def small_file(*nodes: onnx.NodeProto, taken: list[int | str], kind: int = TensorProto.FLOAT) -> ModelProto:
    """A file of one input x, one output y and the weights w [4, 3, 3, 3]."""
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["resnet", "densenet", "highway", "vgg"])
def test_everything_that_is_counted_belongs_to_a_node_of_the_file(
    kind: str, runtime: RuntimeName, tmp_path: Path
) -> None:
    model = written(kind, tmp_path)

    layers = counted(model, runtime)

    assert "" not in {layer.name for layer in layers}
    convolutions = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert convolutions <= {name for layer in layers if layer.macs for name in layer.name.split(" + ")}
    source = onnx_subject(model, ProfileOptions(), "m").source
    assert sum(layer.macs for layer in layers) == sum(node.macs or 0 for node in source.nodes)
    assert {layer.computed_in for layer in layers if layer.macs} == {"fp32"}


@pytest.mark.parametrize("name", ["resnet20", "preresnet18", "densenet121", "resnext50_32x4d", "highway19"])
def test_blocks_are_the_networks_own_by_their_layers_names(name: str) -> None:
    with torch.device("meta"):
        model = build_from_spec(VARIANTS[name].spec, seed=0)
    branches = [name for name, module in model.named_modules() if isinstance(module, StochasticBranch)]
    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]

    for branch in branches:
        inside = [one for one in convolutions if one.startswith(f"{branch}.")]
        assert inside
        nodes = [SourceNode(name=one, operator="Conv", inputs=(), outputs=(), module=one) for one in inside]
        assert set(blocks_of_nodes(nodes)) == {branch}


def test_multiply_adds_are_those_of_the_catalog(tmp_path: Path) -> None:
    from resx.export.sources.source import load_source

    source = load_source("resnet20", weights="none", seed=0)
    model = source.folded().write(tmp_path / "m.onnx", "fp32", "uint8", "cpu")

    one = onnx_subject(model, ProfileOptions(), "m").source.nodes
    three = onnx_subject(model, ProfileOptions(batch=3), "m").source.nodes

    macs = sum(node.macs or 0 for node in one)
    assert macs == pytest.approx(1e9 * VARIANTS["resnet20"].gmacs, rel=2e-2)  # the catalog has two digits
    assert sum(node.macs or 0 for node in three) == 3 * macs


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_multiply_adds_of_each_operator(operator: str) -> None:
    shapes = {"Conv": [1, 3, 6, 6], "ConvTranspose": [1, 4, 6, 6], "Gemm": [2, 27], "MatMul": [2, 5, 27]}
    model = small_file(helper.make_node(operator, ["x", "w"], ["y"]), taken=shapes[operator])
    if operator in ("Gemm", "MatMul"):
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((27, 4), np.float32), "w"))
    if operator == "ConvTranspose":
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))

    (node,) = onnx_subject(model, ProfileOptions(batch=shapes[operator][0]), "m").source.nodes

    expected = {"Conv": 4 * 4 * 4 * 27, "ConvTranspose": 36 * 4 * 27, "Gemm": 2 * 27 * 4, "MatMul": 2 * 5 * 27 * 4}
    assert node.macs == expected[operator]


def test_a_fused_node_is_the_layer_whose_weights_it_has_and_what_is_inserted_belongs_to_its_user() -> None:
    model = small_file(
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Identity", ["r"], ["y"], name="end"),
        taken=[1, 3, 6, 6],
    )
    source = onnx_subject(model, ProfileOptions(), "m").source

    def ran(name: str, *, computes: bool = False, **around: tuple[str, ...]) -> RuntimeNode:
        return RuntimeNode(
            name=name, kernel="k", source_names=(name,), computes=computes, computed_in="fp32",
            bytes_read=0, bytes_weights=0, bytes_written=0, **around,
        )  # fmt: skip

    nodes = [
        ran("r", computes=True, users=("reorder_2",)),
        ran("reorder_1", users=("r",)),
        ran("reorder_2", givers=("r",)),
        ran("conv/WithoutBiases"),
        ran("alone"),
    ]

    assert attribute(nodes, source) == [0, 0, 0, 0, None]


def test_what_belongs_to_nothing_is_told_apart_and_counted() -> None:
    model = small_file(helper.make_node("Conv", ["x", "w"], ["y"], name="conv"), taken=[1, 3, 6, 6])
    source = onnx_subject(model, ProfileOptions(), "m").source
    node = RuntimeNode(
        name="stray", kernel="k", source_names=(), computes=False, computed_in="fp32", bytes_read=1, bytes_weights=2,
        bytes_written=3,
    )  # fmt: skip

    (layer,) = layers_of(Counts(nodes=(node,), times_us=np.array([[5.0], [7.0]])), source, {})

    assert (layer.name, layer.time_us, layer.traffic) == ("", 5.0, 6)
    assert blocks_of([layer]) == ()


def test_the_share_of_the_peak_holds_each_layer_to_the_peak_of_what_it_computes_in() -> None:
    def layer(macs: int, time_us: float, share: float | None) -> Layer:
        return Layer(
            name="l", operator="Conv", block="b", kernels=(), computed_in="fp32", time_us=time_us, macs=macs,
            bytes_read=0, bytes_weights=0, bytes_written=0, peak_share=share,
        )  # fmt: skip

    work = sum_up([layer(100, 10.0, 0.5), layer(100, 20.0, 0.25), layer(0, 10.0, None)])

    assert work.peak_share == pytest.approx((5 + 5) / 40)
    assert sum_up([layer(0, 1.0, None)]).peak_share is None
    assert sum_up([layer(100, 10.0, 0.5)], 20.0).peak_share == pytest.approx(0.25)


def test_quantized_layers_are_counted_as_int8(tmp_path: Path) -> None:
    from resx.runtimes.profiling.machine_peak import gemm

    content, _ = gemm("int8", 64)
    (layer,) = [layer for layer in counted_fixed(onnx.load_from_string(content), 64) if layer.macs]

    assert layer.computed_in == "int8"
    assert layer.macs == 64**3
    assert layer.bytes_weights >= 64 * 64


def counted_fixed(model: ModelProto, batch: int) -> tuple[Layer, ...]:
    options = ProfileOptions(threads=1, num_runs=RUNS, batch=batch)
    subject = onnx_subject(model, options, "m")
    return layers_of(measure(subject, options, peaks=False).counts, subject.source, {})


def test_packed_weights_count_as_memory_that_is_read(tmp_path: Path) -> None:
    layers = counted(written("vgg", tmp_path))

    products = [layer for layer in layers if layer.operator == "Gemm"]
    assert products
    assert all(layer.bytes_weights >= 4 * layer.macs for layer in products)  # at batch 1 each weight is used once


def test_a_profile_in_bf16_moves_half_the_bytes(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from resx.runtimes.openvino_package import computes_in_bf16

    model = written("bottleneck", tmp_path)
    if not computes_in_bf16():
        with pytest.raises(MissingCapability, match="BF16"):
            counted(model, "openvino", "bf16")
        return

    layers = [layer for layer in counted(model, "openvino", "bf16") if layer.operator == "Conv"]
    fp32 = {layer.name: layer for layer in counted(model, "openvino") if layer.operator == "Conv"}

    assert {layer.computed_in for layer in layers} == {"bf16"}
    assert sum(layer.traffic for layer in layers) < 0.7 * sum(layer.traffic for layer in fp32.values())


def test_an_ir_of_openvino_has_the_layers_of_the_onnx_file_that_it_was_made_of(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from resx.runtimes.profiling.openvino_source import ir_subject

    model = written("densenet", tmp_path)
    openvino.save_model(
        openvino.Core().read_model(str(tmp_path / "m.onnx")), tmp_path / "m.xml", compress_to_fp16=False
    )
    options = ProfileOptions(runtime="openvino", threads=1, num_runs=RUNS, batch=2)

    subject = ir_subject(tmp_path / "m.xml", options, "m")
    layers = layers_of(measure(subject, options, peaks=False).counts, subject.source, {})

    of_onnx = onnx_subject(model, options, "m").source
    assert sum(node.macs or 0 for node in subject.source.nodes) == sum(node.macs or 0 for node in of_onnx.nodes)
    assert {block.name for block in blocks_of(layers)} >= {
        block for node, block in zip(of_onnx.nodes, of_onnx.blocks, strict=True) if node.is_weighted
    }


def test_a_profile_leaves_no_file_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = written("resnet", tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "empty"))
    monkeypatch.setattr("tempfile.tempdir", None)

    counted(model)

    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("names", [("", ""), ("same", "same")])
def test_nodes_without_a_name_of_their_own_are_told_apart(names: tuple[str, str]) -> None:
    first, second = names
    model = small_file(
        helper.make_node("Conv", ["x", "w"], ["c"], name=first, pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["y"], name=second),
        taken=["N", 3, 6, 6],
    )

    assert {layer.operator for layer in counted(model)} == {"Conv", "Sigmoid"}


@pytest.mark.parametrize(
    ("taken", "kind", "options", "words"),
    [
        (["N", 3, "H", "W"], TensorProto.FLOAT, {}, "--image-size"),
        (["N", 3, 6, 6, "D"], TensorProto.FLOAT, {"image_size": 6}, "sizes of its input open"),
        ([4, 3, 6, 6], TensorProto.FLOAT, {"batch": 2}, "give --batch 4"),
        (["N", 3, 6, 6], TensorProto.INT64, {}, "bytes or floats"),
    ],
)
def test_an_input_that_nothing_can_be_made_for_is_refused(
    taken: list[int | str], kind: int, options: dict[str, int], words: str
) -> None:
    model = small_file(helper.make_node("Conv", ["x", "w"], ["y"]), taken=taken, kind=kind)

    with pytest.raises(UsageError, match=words):
        onnx_subject(model, ProfileOptions(**options), "m.onnx")  # type: ignore[arg-type]


def test_an_open_image_size_can_be_given() -> None:
    model = small_file(helper.make_node("Conv", ["x", "w"], ["y"]), taken=["N", 3, "H", "W"])

    subject = onnx_subject(model, ProfileOptions(image_size=6, batch=2), "m.onnx")

    assert subject.feed["x"].shape == (2, 3, 6, 6)
    assert subject.source.nodes[0].macs == 2 * 4 * 16 * 27


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_that_a_runtime_refuses_is_an_error_with_its_reason(runtime: RuntimeName) -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], domain="nobody.knows")
    with pytest.raises(ExportError, match="rejects it"):
        counted(small_file(node, taken=[1, 3, 6, 6]), runtime)


def test_a_file_of_half_precision_says_what_the_processor_computes_in(tmp_path: Path) -> None:
    model, spec = small_network("resnet")
    proto = write_onnx(
        fold_survival(model), spec, tmp_path / "m.onnx", precision="fp16", input_type="uint8", target="cpu"
    )
    options = ProfileOptions(threads=1, num_runs=RUNS)

    found = profile_model(onnx_subject(proto, options, "m"), options)

    in_fp16 = any(layer.computed_in == "fp16" and layer.macs for layer in found.layers)
    assert in_fp16 != any("fp16" in note for note in found.notes)
    assert [peak.computed_in for peak in found.peaks] == ["fp32"]
    assert found.bandwidth.gb_per_s > 0


@pytest.mark.parametrize(
    ("run_ms", "share", "words"),
    [(1.0, 0.9, ""), (1.2, None, ""), (1.3, 0.9, "1.3 times the fastest"), (1.0, 1.1, "faster than the matrix")],
)
def test_a_profile_taken_beside_others_work_says_so(run_ms: float, share: float | None, words: str) -> None:
    notes = _busy(run_ms, 1.0, share)

    assert bool(notes) == bool(words)
    assert all(words in note for note in notes)
