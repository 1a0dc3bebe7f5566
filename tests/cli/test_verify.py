"""`resx verify`: a version that is what it says passes, and every way of being something else is found."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import resx as api
from resx.export import onnx_file
from resx.serving.repository import Repository
from tests.conftest import Finished, RunningTriton, publish_tiny, tiny_spec

Resx = Callable[..., Finished]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and a copy to be changed."""
    from resx.zoo.building import build_from_spec

    network = api.fold(build_from_spec(tiny_spec(), seed=0))
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    onnx_file.write_onnx(network, tiny_spec(), first, precision="fp32", input_type="uint8")
    second.write_bytes(first.read_bytes())
    return first, second


def change(path: Path, mutate: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    mutate(model)
    path.write_bytes(model.SerializeToString())


def convolution(model: onnx.ModelProto, number: int) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    node = [node for node in model.graph.node if node.op_type == "Conv"][number]
    return node, next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])


def scale_weight(number: int, factor: float) -> Callable[[onnx.ModelProto], None]:
    def mutate(model: onnx.ModelProto) -> None:
        _, weight = convolution(model, number)
        weight.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(factor), weight.name)
        )

    return mutate


def swap_colours(model: onnx.ModelProto) -> None:
    _, weight = convolution(model, 0)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))


def transpose_linear(model: onnx.ModelProto) -> None:
    square = next(t for t in model.graph.initializer if t.dims == [8, 8, 3, 3])
    square.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(square).transpose(1, 0, 2, 3).copy(), square.name)
    )


def test_equal_files_pass_with_zero(resx: Resx, files: tuple[Path, Path]) -> None:
    done = resx("verify", *files, "--json")
    assert done.code == 0, done.err
    (output,) = done.json["outputs"]
    assert (output["output"], output["max_abs"], output["top1_agreement"], output["smallest_rtol"]) == (
        "logits",
        0,
        1,
        0,
    )


@pytest.mark.parametrize("mutate", [scale_weight(2, 1.01), swap_colours, transpose_linear])
def test_a_changed_file_is_exit_code_3(
    resx: Resx, files: tuple[Path, Path], mutate: Callable[[onnx.ModelProto], None]
) -> None:
    change(files[1], mutate)
    done = resx("verify", *files, "--json")
    assert done.code == 3
    assert not done.json["passed"]
    assert "logits differs" in done.err
    smallest = done.json["outputs"][0]["smallest_rtol"]
    assert resx("verify", *files, "--rtol", str(smallest * 1.01), "-q").code == 0
    assert resx("verify", *files, "--rtol", str(smallest * 0.99), "-q").code == 3


def test_bisect_names_the_layer_that_was_changed(resx: Resx, files: tuple[Path, Path]) -> None:
    change(files[1], scale_weight(3, 1.2))
    node, _ = convolution(onnx.load(files[0]), 3)
    done = resx("verify", *files, "--bisect", "--json")
    assert done.code == 3
    assert done.json["first_divergence"]["tensor"] == node.output[0]
    assert done.json["first_divergence"]["operator"] == "Conv"


def test_files_of_another_interface_are_refused(resx: Resx, files: tuple[Path, Path], tmp_path: Path) -> None:
    from resx.zoo.building import build_from_spec

    spec = tiny_spec(classes=7)
    onnx_file.write_onnx(
        build_from_spec(spec, seed=0).eval(), spec, tmp_path / "other.onnx", precision="fp32", input_type="uint8"
    )
    for words, arguments in (
        ("compare files of one kind", [files[0], "other.onnx"]),
        ("no such file", [files[0], "none.onnx"]),
        ("give a second .onnx file", [files[0]]),
        ("give a bound above 0", [*files, "--rtol", "0"]),
    ):
        done = resx("verify", *arguments, "-q")
        assert done.code == 2
        assert words in done.err
        assert done.out == ""


def test_a_published_version_repeats_all_its_checks(resx: Resx, tmp_path: Path) -> None:
    assert resx("export", "resnet20", "--set", "stage_depths=[1,1,1]", "--name", "m", "-q").code == 0
    done = resx("verify", "m", "--json")
    assert done.code == 0, done.err
    assert [(check["passed"], check["skipped"]) for check in done.json["checks"]] == [(True, False)] * 3

    file = tmp_path / "model_repository/m/1/model.onnx"
    change(file, scale_weight(1, 1.5))
    done = resx("verify", "m", "-q")
    assert done.code == 3
    assert "model.onnx is the verified file" in done.err


def test_a_file_whose_card_was_adjusted_is_found_by_its_answers(resx: Resx, tmp_path: Path) -> None:
    """The hash agrees, so the canary and the source have to tell."""
    from resx.files import sha256_of

    assert resx("export", "resnet20", "--set", "stage_depths=[1,1,1]", "--name", "m", "-q").code == 0
    folder = tmp_path / "model_repository/m/1"
    change(folder / "model.onnx", swap_colours)
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    (folder / "card.json").write_text(json.dumps(card))
    done = resx("verify", "m", "--json")
    assert done.code == 3
    assert [check["passed"] for check in done.json["checks"]] == [True, False, False]


def test_an_int8_version_is_compared_as_it_was_exported(resx: Resx) -> None:
    """On real images only: noise leaves the calibrated ranges and would fail a good file."""
    assert resx("train", "resnet20", "--epochs", "4", "--image-size", "16", "-o", "run", "-q").code == 0
    export = resx("export", "run", "--int8", "--calibrate-images", "64", "--json", "-q")
    assert export.code == 0, export.err
    done = resx("verify", "run", "--json")
    assert done.code == 0, done.err
    assert [(check["passed"], check["skipped"]) for check in done.json["checks"]] == [(True, False)] * 3
    assert f"{export.json['steps'][-1]['num_images']} images" in done.json["checks"][-1]["detail"]


def test_a_source_that_is_gone_is_said_not_guessed(tmp_path: Path, resx: Resx) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    done = resx("verify", "tiny", "--json")
    assert done.code == 0, done.err
    assert [check["skipped"] for check in done.json["checks"]] == [False, False, True]


@pytest.mark.triton
@pytest.mark.parametrize("name", ["tiny", "tiny_fp16", "tiny_float"])
def test_served_answers_are_compared_too(triton: RunningTriton, resx: Resx, name: str) -> None:
    where = f"--repository={triton.repository.root}"
    done = resx("verify", name, where, "--served", triton.url(), "--json")
    assert done.code == 0, done.err
    assert done.json["checks"][-1]["what"].startswith("grpc://")
    gone = resx("verify", name, where, "--served", "127.0.0.1:9", "-q")
    assert gone.code == 3
    assert "no server answers" in gone.err
