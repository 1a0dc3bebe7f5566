"""int8 for OpenVINO: quantized by NNCF, held to the same rules, in one ONNX file that says how it came to be."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from resx.card.card import Card, read_card
from resx.card.kinds import CALIBRATION_METHODS, NNCF_METHODS, CalibrationMethod
from resx.card.origin import SourceArguments
from resx.errors import MissingCapability, ParityError, UsageError
from resx.export.checks import parity
from resx.export.checks.accuracy import Labelled
from resx.export.int8 import nncf_quantization, quantization
from resx.export.int8.nncf_quantization import Validation
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.request import request_of
from resx.export.sources.source import LoadedSource
from resx.runtimes.model_file import open_model
from resx.zoo.building import build_from_spec
from tests.export.int8.test_quantization import with_an_outlier
from tests.support.int8_models import PHOTOGRAPHS, options, source, taught, tiny
from tests.support.small_networks import tiny_densenet, with_statistics

nncf = pytest.importorskip("nncf", reason="needs resx[openvino]")


def for_openvino(method: CalibrationMethod = "mean", **changes: Any) -> ExportOptions:
    return options(runtime="openvino", method=method, **changes)


def export(loaded: LoadedSource, how: ExportOptions, folder: Path) -> Card:
    folder.mkdir(exist_ok=True)
    return export_version(loaded, how, folder, name="m", command="a test")


@pytest.mark.parametrize("method", NNCF_METHODS)
def test_an_int8_file_for_openvino_computes_in_8_bits_and_the_card_says_by_what(
    method: CalibrationMethod, tmp_path: Path
) -> None:
    card = export(tiny(), for_openvino(method), tmp_path)

    made_of, step = card.steps
    assert (made_of.step, made_of.tolerance) == ("fp32 file", parity.TOLERANCES["fp32"])
    assert step.passed
    assert (step.cosine or 0) > 0.99
    made, runtime = card.quantisation, card.runtime
    assert made is not None
    assert runtime is not None
    assert (made.tool, made.tool_version, made.method) == ("nncf", nncf.__version__, method)
    assert made.int8_share > 0.95
    assert runtime.name == "openvino"
    assert set(runtime.layer_precisions) <= {"u8", "i8"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "model.onnx"]
    assert read_card(tmp_path) == card
    assert open_model(tmp_path / card.model_file, card)(PHOTOGRAPHS[:2]).shape == (2, 10)


def test_two_exports_give_the_same_bytes_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))

    cards = [export(tiny(), for_openvino(), tmp_path / name) for name in ("a", "b")]

    assert cards[0].files == cards[1].files
    assert list(here.iterdir()) == list(home.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_densenets_layers_are_quantized_and_its_first_steps_are_not(tmp_path: Path) -> None:
    spec = tiny_densenet()
    card = export(
        source(taught(with_statistics(build_from_spec(spec, seed=0)), spec), spec),
        for_openvino(verify=False),
        tmp_path,
    )
    assert card.quantisation is not None
    assert card.quantisation.int8_share > 0.95
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    weights = operators.index("Conv")
    assert operators[:weights].index("QuantizeLinear") > max(operators.index("Cast"), operators.index("Mul"))


def test_layers_that_are_to_stay_stay(tmp_path: Path) -> None:
    card = export(tiny(), for_openvino(keep_fp32=("layer1.*", "fc")), tmp_path)

    assert card.quantisation is not None
    kept = [layer.layer for layer in card.quantisation.kept_fp32]
    assert kept
    assert all(layer.error is None for layer in card.quantisation.kept_fp32)
    model = onnx.load(tmp_path / "model.onnx")
    in_fp32 = nncf_quantization.layers_in_fp32(model, quantization.layers(model))
    assert set(in_fp32) == {name for name in kept if name in quantization.layers(model)}
    arguments = SourceArguments(source="m", weights="none", seed=0, image_size=None, settings=())
    request = request_of(card, arguments)
    assert (request.keep_fp32, request.runtime, request.calibrate_method) == (tuple(kept), "openvino", "mean")


def test_a_harmed_layer_is_found_and_kept(tmp_path: Path) -> None:
    card = export(with_an_outlier("layer2.0"), for_openvino("minmax"), tmp_path)

    assert card.quantisation is not None
    kept = {layer.layer for layer in card.quantisation.kept_fp32}
    assert kept
    assert kept <= {"layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv1"}
    assert card.quantisation.num_tried > 1
    assert card.steps[-1].passed


def test_where_half_the_layers_do_not_help_there_is_no_card(tmp_path: Path) -> None:
    strict = dataclasses.replace(for_openvino(), atol=1e-9)
    with pytest.raises(ParityError, match="most sensitive of"):
        export(tiny(), strict, tmp_path)
    assert not (tmp_path / "card.json").exists()


@pytest.mark.parametrize("is_harmed", [False, True])
def test_layers_go_back_to_fp32_until_accuracy_is_kept_and_not_where_it_was(is_harmed: bool, tmp_path: Path) -> None:
    loaded = with_an_outlier("layer1.0", "layer2.0") if is_harmed else tiny()
    export(loaded, ExportOptions(), tmp_path / "fp32")
    file = tmp_path / "fp32" / "model.onnx"
    validation = Validation(
        images=PHOTOGRAPHS, classes=loaded.logits(PHOTOGRAPHS).argmax(1), as_input=lambda images: images
    )
    feeds = [{"image": PHOTOGRAPHS[index : index + 1]} for index in range(20)]

    plain = nncf_quantization.quantise(file, feeds, "minmax", keep_fp32=[])
    restored = nncf_quantization.quantise(file, feeds, "minmax", keep_fp32=[], validation=validation)

    assert (nncf_quantization.accuracy_drop(file, plain, validation) > 0.01) == is_harmed
    assert nncf_quantization.accuracy_drop(file, restored, validation) <= 0.01
    layers = quantization.layers(onnx.load(file))
    assert nncf_quantization.layers_in_fp32(plain, layers) == []
    assert bool(nncf_quantization.layers_in_fp32(restored, layers)) == is_harmed


def test_an_export_with_known_classes_puts_layers_back_where_accuracy_falls_and_the_card_says_how_many(
    tmp_path: Path,
) -> None:
    harmed = with_an_outlier("layer1.0")
    labelled = Labelled(images=PHOTOGRAPHS, classes=harmed.logits(PHOTOGRAPHS).argmax(1), origin="photographs")
    loose = dataclasses.replace(for_openvino("minmax"), atol=1e9)  # parity alone would keep no layer

    card = export(dataclasses.replace(harmed, labelled=labelled), loose, tmp_path)

    made = card.quantisation
    assert made is not None
    assert made.kept_by_accuracy == len(made.kept_fp32) > 0
    assert all(layer.error is not None for layer in made.kept_fp32)  # found, not asked for
    assert card.steps[-1].passed


@pytest.mark.parametrize("processor", ["avx2", "avx512", "avx512_vnni", "amx", "neon"])
def test_weights_have_seven_bits_where_products_of_eight_saturate(processor: str, tmp_path: Path) -> None:
    export(tiny(), ExportOptions(), tmp_path / "fp32")
    feeds = [{"image": PHOTOGRAPHS[index : index + 1]} for index in range(8)]

    model = nncf_quantization.quantise(
        tmp_path / "fp32" / "model.onnx", feeds, "mean", keep_fp32=[], processor=processor
    )

    largest = {
        name: int(np.abs(onnx.numpy_helper.to_array(tensor).astype(np.int32)).max())
        for tensor in model.graph.initializer
        if (name := tensor.name).startswith("q_output_") and len(tensor.dims) == 4
    }
    assert len(largest) > 3
    halved = {name for name, most in largest.items() if most <= 64}
    if processor in ("avx2", "avx512"):
        assert halved == set(largest)
    else:
        assert 0 < len(halved) < len(largest)  # the first layer, whose input is the widest


@pytest.mark.parametrize("method", sorted({*CALIBRATION_METHODS} - {*NNCF_METHODS}))
def test_a_method_of_the_other_runtime_is_refused(method: CalibrationMethod) -> None:
    with pytest.raises(UsageError, match=f"--calibrate-method {method}: .* mean, minmax, percentile"):
        for_openvino(method)
    with pytest.raises(UsageError, match=r"--calibrate-method mean: .* entropy, minmax, percentile"):
        options(method="mean")


def test_without_nncf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingCapability, match=r"nncf .*pip install 'resx\[openvino\]'"):
        nncf_quantization.load_nncf()
