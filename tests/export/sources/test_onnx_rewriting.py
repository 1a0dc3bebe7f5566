"""Files that somebody else made, written in fp16 and int8."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from resx.card.kinds import Precision
from resx.card.origin import SourceArguments
from resx.errors import ExportError, UsageError
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.request import ExportRequest, prepare
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from tests.support.command import Finished
from tests.support.onnx_files import load_file, network, saved


def bytes_behind(cast: NodeProto) -> ModelProto:
    """The network on bytes, with another way to floats."""
    model = network(data_type=TensorProto.UINT8)
    model.graph.node[0].CopyFrom(cast)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "scale"))
    return model


def through(*nodes: NodeProto, **values: object) -> ModelProto:
    """The network with nodes from `scores` to `answer`."""
    model = network()
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "answer"
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    return model


HALF_KINDS = {
    "cast of bytes": lambda: network(data_type=TensorProto.UINT8),
    "castlike of bytes": lambda: bytes_behind(helper.make_node("CastLike", ["given", "scale"], ["float"])),
    "cast at the end": lambda: through(helper.make_node("Cast", ["scores"], ["answer"], to=TensorProto.FLOAT)),
    "cast there and back": lambda: through(
        helper.make_node("Cast", ["scores"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["d"], ["answer"], to=TensorProto.FLOAT),
    ),
    "doubles": lambda: through(
        helper.make_node("Cast", ["scores"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["d", "two"], ["e"]),
        helper.make_node("Cast", ["e"], ["answer"], to=TensorProto.FLOAT),
        two=np.float64(2),
    ),
    "clip": lambda: through(
        helper.make_node("Clip", ["scores", "low", "high"], ["answer"]), low=np.float32(-1), high=np.float32(1)
    ),
    "shape arithmetic": lambda: through(
        helper.make_node("Shape", ["scores"], ["s"], start=1),
        helper.make_node("Cast", ["s"], ["t"], to=1),
        helper.make_node("Div", ["scores", "t"], ["answer"]),
    ),
}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("kind", HALF_KINDS)
def test_casts_and_constants_survive_low_precision(
    tmp_path: Path, kind: str, precision: Precision, resx: Callable[..., Finished]
) -> None:
    path = saved(HALF_KINDS[kind](), tmp_path)
    source = load_file(path)
    options = ExportRequest(
        source=SourceArguments(source=str(path), weights="none", seed=0, image_size=None, settings=()),
        precision=precision,
        target="cpu",
        calibrate="random" if precision == "int8" else "",
        calibrate_images=8,
        calibrate_method="minmax",
        verify=precision == "fp16",
    )
    export_version(*prepare(options, lambda _step: None), tmp_path, name="m", command="a test")
    rows = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    before, after = source.logits(rows), OnnxRuntimeModel(tmp_path / "model.onnx")(rows)
    assert np.abs(after - before).max() <= (0.02 if precision == "fp16" else 0.2) * np.abs(before).max()


def half_already(folder: Path) -> Path:
    source = load_file(saved(network(), folder))
    made = folder / "half"
    made.mkdir()
    options = ExportOptions(precision="fp16", input_type="float32")
    export_version(source, options, made, name="theirs", command="a test")
    return made / "model.onnx"


def test_a_file_in_fp16_is_taken_as_it_is_and_never_called_int8(tmp_path: Path) -> None:
    source = load_file(half_already(tmp_path))
    card = export_version(
        source, ExportOptions(precision="fp16", input_type="float32"), tmp_path, name="m", command="a test"
    )
    assert (card.fp16_share, card.steps[-1].max_abs) == (1.0, 0.0)
    assert card.operators_before == card.operators_after
    with pytest.raises(UsageError, match="has 16-bit weights, and int8 is made of fp32"):
        source.require_convertible("int8", stored_in="int8")


def test_what_cannot_be_written_in_fp16_is_one_line(tmp_path: Path) -> None:
    model = bytes_behind(helper.make_node("DequantizeLinear", ["given", "scale"], ["float"]))
    with pytest.raises(ExportError, match="its fp16 version is not valid ONNX") as refusal:
        load_file(saved(model, tmp_path)).write(tmp_path / "half.onnx", "fp16", "uint8", "cpu")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "half.onnx").exists()
