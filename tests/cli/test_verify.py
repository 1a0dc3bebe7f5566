"""`resx verify`: a version that is what it says passes, and every way of being something else is found."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import resx as api
from resx.export.graph import onnx_writer
from resx.files.staging import sha256_of
from resx.repository.versions import Repository
from tests.support.command import Finished
from tests.support.export_faults import GraphFault, change, changed_weight, layer
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny, tiny_spec

Resx = Callable[..., Finished]


def scaled(number: int, factor: float) -> GraphFault:
    return changed_weight(lambda weight: weight * np.float32(factor), number)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and a copy to be changed."""
    from resx.zoo.building import build_from_spec

    network = api.fold(build_from_spec(tiny_spec(), seed=0))
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    onnx_writer.write_onnx(network, tiny_spec(), first, precision="fp32", input_type="uint8")
    second.write_bytes(first.read_bytes())
    return first, second


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


def test_the_smallest_tolerance_that_passes_is_told_and_passes(resx: Resx, files: tuple[Path, Path]) -> None:
    change(files[1], scaled(2, 1.01))
    done = resx("verify", *files, "--json")
    assert done.code == 3
    assert not done.json["passed"]
    smallest = done.json["outputs"][0]["smallest_rtol"]
    assert f"it would pass with --rtol {smallest:g}" in done.err
    assert resx("verify", *files, "--rtol", str(smallest), "-q").code == 0
    assert resx("verify", *files, "--rtol", str(smallest * 0.98), "-q").code == 3


def test_files_are_run_on_noise_and_photographs_at_batches_of_1_2_and_the_largest(
    resx: Resx, files: tuple[Path, Path]
) -> None:
    done = resx("verify", *files, "--max-batch", "5", "--json")
    assert done.code == 0, done.err
    assert (done.json["batch_sizes"], done.json["num_noise"], done.json["num_photographs"]) == ([1, 2, 5], 8, 8)
    (output,) = done.json["outputs"]
    assert output["num_rows"] == 16
    assert {"max_abs", "mean_abs", "p99_abs", "cosine", "top1_agreement", "smallest_rtol"} <= set(output)


def test_a_file_that_gives_no_numbers_is_a_line_and_valid_json(resx: Resx, files: tuple[Path, Path]) -> None:
    change(files[1], scaled(2, float("nan")))
    done = resx("verify", *files, "--bisect", "--json", "-q")
    assert done.code == 3
    assert done.json["outputs"][0]["max_abs"] is None
    assert done.err.count("\n") == 1
    assert "no tolerance accepts NaN" in done.err


def test_accuracy_of_both_files_is_measured_on_labelled_data(resx: Resx, files: tuple[Path, Path]) -> None:
    done = resx("verify", *files, "--data", "digits", "--images", "50", "--json")
    assert done.code == 0, done.err
    found = done.json["accuracy"]
    assert found["num_images"] == 50
    assert found["first"] == found["second"]
    for words, arguments in (
        ("give digits, mnist5k, cifar10:DIR", ("--data", "letters")),
        ("no such folder", ("--data", "folder:none")),
    ):
        wrong = resx("verify", *files, *arguments, "-q")
        assert (wrong.code, wrong.out) == (2, "")
        assert words in wrong.err


def test_bisect_names_the_layer_that_was_changed(resx: Resx, files: tuple[Path, Path]) -> None:
    change(files[1], scaled(3, 1.2))
    node, _ = layer(onnx.load(files[0]), "Conv", 3)
    done = resx("verify", *files, "--bisect", "--json")
    assert done.code == 3
    assert done.json["first_divergence"]["tensor"] == node.output[0]
    assert done.json["first_divergence"]["operator"] == "Conv"


def renamed(path: Path, names: dict[str, str]) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    onnx.save(model, path)


@pytest.mark.parametrize("names", [{"image": "x"}, {"logits": "scores"}, {"image": "x", "logits": "y"}])
def test_files_that_differ_in_names_alone_are_compared_by_position(
    resx: Resx, files: tuple[Path, Path], names: dict[str, str]
) -> None:
    renamed(files[1], names)
    done = resx("verify", *files, "-q")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "only the names differ: use --by-position" in done.err
    assert resx("verify", *files, "--by-position", "-q").code == 0
    change(files[1], scaled(3, 1.2))
    done = resx("verify", *files, "--by-position", "--bisect", "--json")
    assert done.code == 3
    assert done.json["first_divergence"]["operator"] == "Conv"


@pytest.mark.parametrize("shape", [(-1, 3, -1, -1), (0, 3, 0, 0), ("n", "c", "h", "w")])
def test_files_of_open_sizes_are_compared_at_the_usual_one(
    resx: Resx, files: tuple[Path, Path], shape: tuple[int | str, ...]
) -> None:
    from onnx import TensorProto, helper

    kernel = helper.make_tensor("k", TensorProto.FLOAT, [2, 3, 3, 3], np.ones(54, np.float32))
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node("GlobalMaxPool", ["c"], ["y"])]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 2, 1, 1])
    graph = helper.make_graph(nodes, "g", [image], [answer], [kernel])
    files[0].write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    done = resx("verify", files[0], files[0], "--json")
    assert done.code == 0, done.err
    assert done.json["num_photographs"] > 0


def test_files_of_another_interface_are_refused(resx: Resx, files: tuple[Path, Path], tmp_path: Path) -> None:
    from resx.zoo.building import build_from_spec

    spec = tiny_spec(classes=7)
    onnx_writer.write_onnx(
        build_from_spec(spec, seed=0).eval(), spec, tmp_path / "other.onnx", precision="fp32", input_type="uint8"
    )
    for words, arguments in (
        ("compare files of the same kind", [files[0], "other.onnx"]),
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
    change(file, scaled(1, 1.5))
    done = resx("verify", "m", "-q")
    assert done.code == 3
    assert "model.onnx is the verified file" in done.err


def test_a_run_is_compared_as_it_was_exported_and_by_its_accuracy(resx: Resx) -> None:
    """int8 on real images only: noise leaves the calibrated ranges and would fail a good file."""
    assert resx("train", "resnet20", "--epochs", "4", "--image-size", "16", "-o", "run", "-q").code == 0
    export = resx("export", "run", "--int8", "--calibrate-images", "64", "--json", "-q")
    assert export.code == 0, export.err
    done = resx("verify", "run", "--json")
    assert done.code == 0, done.err
    assert [(check["passed"], check["skipped"]) for check in done.json["checks"]] == [(True, False)] * 4
    assert f"{export.json['steps'][-1]['num_images']} images" in done.json["checks"][2]["detail"]
    assert [(step["when"], step["step"]) for step in done.json["steps"]] == [
        ("export", "fp32 file"),
        ("export", "onnx"),
        ("now", "onnx"),
    ]
    again, exported = done.json["steps"][2], done.json["steps"][1]
    assert again["max_abs"] == pytest.approx(exported["max_abs"], rel=1e-3)
    assert 0 < again["smallest_rtol"] < 1

    found = done.json["accuracy"]
    assert found["num_images"] == 355, "all of the held-out images"
    assert min(found["source"], found["file"]) > 0.9
    all_of_them = resx("verify", "run", "--data", "digits", "--json")
    assert all_of_them.code == 0, all_of_them.err
    assert all_of_them.json["accuracy"]["num_images"] == 355
    table = resx("verify", "run", "-q")
    assert "would pass with" in table.out


def test_a_file_that_loses_more_than_a_point_fails_whatever_its_other_bar(resx: Resx, tmp_path: Path) -> None:
    """Exported under a bar of the user's own, so that only accuracy tells."""
    assert resx("train", "resnet20", "--epochs", "2", "--image-size", "16", "-o", "run", "-q").code == 0
    assert resx("export", "run", "--rtol", "100", "-q").code == 0
    folder = tmp_path / "model_repository" / "run" / "1"
    change(folder / "model.onnx", changed_weight(lambda weight: weight[::-1], number=0, operator="Gemm"))
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    card["canary"]["tolerance"] = 100
    (folder / "card.json").write_text(json.dumps(card))
    done = resx("verify", "run", "--json")
    assert done.code == 3
    assert [check["passed"] for check in done.json["checks"]] == [True, True, True, False]
    assert done.json["accuracy"]["file"] < done.json["accuracy"]["source"]
    assert "accuracy drops by at most one point" in done.err


def test_data_of_other_classes_are_refused(resx: Resx, tmp_path: Path) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny", classes=7)
    done = resx("verify", "tiny", "--data", "digits", "-q")
    assert done.code == 2
    assert done.err == ("error: --data digits: has 10 classes and the model 7; use data with the model's classes\n")


def test_a_source_that_is_gone_is_said_not_guessed(tmp_path: Path, resx: Resx) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "tiny")
    done = resx("verify", "tiny", "--json")
    assert done.code == 0, done.err
    assert [check["skipped"] for check in done.json["checks"]] == [False, False, True]


@pytest.mark.triton
@pytest.mark.parametrize("name", ["tiny", "tiny_fp16", "tiny_float"])
def test_served_answers_are_compared_too(triton: RunningTriton, resx: Resx, name: str) -> None:
    where = f"--repository={triton.repository.root}"
    done = resx("verify", name, where, "--served", triton.url(), "--data", "digits", "--images", "40", "--json")
    assert done.code == 0, done.err
    assert done.json["checks"][-2]["what"].startswith("grpc://")
    assert done.json["accuracy"]["served"] == done.json["accuracy"]["file"]
    gone = resx("verify", name, where, "--served", "127.0.0.1:9", "-q")
    assert gone.code == 4
    assert "no server answers" in gone.err
