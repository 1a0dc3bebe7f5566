"""`resx profile`: a version, a run and a file, as a table, as JSON and as a picture."""

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resx.training.recipes import configure
from resx.training.runs.checkpoint import write_run
from tests.support.command import Resx, refused
from tests.support.small_networks import small_network

FEW = ("--runs", "2", "--threads", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, of an untrained network."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    model, spec = small_network("resnet")
    write_run(folder, model, spec, configure("digits", "digits", {}))
    return folder


@pytest.fixture
def conv_file(tmp_path: Path) -> Path:
    """A third party's file: nodes without names, batch and image size open."""
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "layer1.0.conv1.weight")
    nodes = [helper.make_node("Conv", ["x", "layer1.0.conv1.weight"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [taken], [given], [weight]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 9
    onnx.save(model, tmp_path / "conv.onnx")
    return tmp_path / "conv.onnx"


def test_a_run_is_profiled_in_a_table_of_80_columns_with_the_rest_in_one_row(resx: Resx, run: Path) -> None:
    done = resx("profile", run, *FEW, env={"COLUMNS": "80"})

    assert done.code == 0, done.err
    # Lines of words are broken by the terminal; the next command has the path of the run.
    assert max(len(line) for line in done.out.splitlines() if not line.startswith("Next: ")) <= 110
    table = [line for line in done.out.splitlines() if re.search(r"  \d+\.\d{3}  ", line)]
    assert table
    assert max(map(len, table)) <= 80
    assert any(line.strip().startswith("layer1.0") for line in table)
    assert "other layers" in done.out
    assert "not attributed to a layer: 0 ms" in done.out


def test_json_is_what_the_schema_says_and_holds_every_layer(resx: Resx, run: Path, conv_file: Path) -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "profile.schema.json").read_text())

    network = resx("profile", run, *FEW, "--batch", "2", "--json")
    file = resx("profile", conv_file, *FEW, "--image-size", "6", "--json")

    for done in (network, file):
        assert done.code == 0, done.err
        jsonschema.validate(done.json, schema)
    assert network.json["batch"] == 2
    assert sum(layer["macs"] for layer in network.json["layers"]) == network.json["total"]["macs"] > 0
    assert [layer["operator"] for layer in file.json["layers"] if layer["macs"]] == ["Conv"]
    assert {block["name"] for block in file.json["blocks"]} == {"layer1.0"}


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_profile_is_drawn(suffix: str, begins: bytes, resx: Resx, conv_file: Path, tmp_path: Path) -> None:
    picture = tmp_path / f"p.{suffix}"

    done = resx("profile", conv_file, *FEW, "--image-size", "6", "--plot", picture, "--all")

    assert done.code == 0, done.err
    assert picture.read_bytes().startswith(begins)
    assert f"wrote {picture}" in done.out


def test_a_version_is_profiled_by_its_number(resx: Resx, run: Path) -> None:
    assert resx("export", run, "--name", "m", "-q").code == 0

    done = resx("profile", "m:1", *FEW, "--json")

    assert done.code == 0, done.err
    assert done.json["subject"] == "m version 1"
    refused(resx("profile", "m:2", *FEW), 2, "no version 2")
    refused(resx("profile", "m:x", *FEW), 2, "NAME:VERSION")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("THING is missing",)),
        (("nothing-like-it",), ("no .onnx file, run, variant or model",)),
        (("resnet5O",), ("resnet50",)),
        (("absent.onnx",), ("absent.onnx", "no such file")),
        (("model.plan",), ("TensorRT engine", "trtexec")),
        (("model.engine",), ("TensorRT engine",)),
        (("resnet20", "--bf16", "--runtime", "onnxruntime"), ("--bf16", "--runtime openvino")),
        (("resnet20", "--runtime", "tensorrt"), ("--runtime", "openvino")),
        (("resnet20", "--plot", "p.jpg"), (".png",)),
    ],
)
def test_what_cannot_be_profiled_is_refused_in_one_line(
    resx: Resx, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(resx("profile", *arguments), 2, *words)


def test_a_file_that_leaves_its_sizes_open_names_the_option(resx: Resx, conv_file: Path) -> None:
    refused(resx("profile", conv_file, *FEW), 2, "--image-size")
