"""`resx export --runtime` and `--bf16` on the CPU as a user gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper

from resx.runtimes.openvino_package import computes_in_bf16
from tests.support import onnx_files
from tests.support.command import Finished, refused
from tests.support.onnx_files import network

Resx = Callable[..., Finished]


def write(folder: Path, model: ModelProto | None = None, name: str = "net") -> Path:
    return onnx_files.saved(network() if model is None else model, folder, name)


needs_bf16 = pytest.mark.skipif(not computes_in_bf16(), reason="this processor has no BF16, according to OpenVINO")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--fp16", "--runtime", "openvino"], 2, ["--fp16 --runtime openvino", "use --bf16"]),
        (["--bf16", "--runtime", "onnxruntime", "--target", "cpu"], 2, ["--bf16 --runtime onnxruntime", "OpenVINO"]),
        (["--runtime", "openvino", "--target", "gpu"], 2, ["--runtime openvino", "remove one of the two"]),
        (["--runtime", "openvino", "--accelerator", "tensorrt"], 2, ["--accelerator tensorrt", "remove one"]),
        (["--runtime", "openvino", "--format", "tensorrt"], 2, ["--runtime openvino", "--format tensorrt builds"]),
        (["--runtime", "onnxruntime", "--format", "tensorrt-rtx"], 2, ["--runtime onnxruntime", "remove one"]),
        (["--runtime", "tvm"], 2, ["--runtime tvm", "onnxruntime, openvino"]),
        (["--runtime", ""], 2, ["SOURCE is missing"]),
    ],
)
def test_what_does_not_go_together_is_said_before_the_work(
    resx: Resx, arguments: list[str], code: int, words: list[str], tmp_path: Path
) -> None:
    source = [] if arguments[1] == "" else ["resnet20"]
    refused(resx("export", *source, *arguments), code, *words)
    assert not list(tmp_path.rglob("model.onnx"))


def test_the_members_of_a_family_are_chosen_by_latency_in_onnxruntime(resx: Resx, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("spec.json", "model.safetensors"):
        (run / name).write_bytes(b"{}")
    refused(resx("export", "run", "--pareto", "2", "--runtime", "openvino"), 2, "--pareto", "openvino would compute")


def test_an_export_in_openvino_says_what_computed_it_and_makes_the_same_file(resx: Resx, tmp_path: Path) -> None:
    write(tmp_path)
    plain = resx("export", "net.onnx", "--json")
    assert plain.code == 0, plain.err
    done = resx("export", "net.onnx", "--runtime", "openvino", "--json")
    assert done.code == 0, done.err
    said = done.json
    assert said["runtime"]["name"] == "openvino"
    assert said["runtime"]["precision_hint"] == "f32"
    assert set(said["runtime"]["layer_precisions"]) == {"f32"}
    assert said["runtime"]["instruction_set"] == plain.json["runtime"]["instruction_set"]
    assert (plain.json["runtime"]["name"], plain.json["runtime"]["precision_hint"]) == ("onnxruntime", None)
    assert [step["step"] for step in said["steps"]] == ["OpenVINO f32"]
    cards = [json.loads((tmp_path / f"model_repository/net/{n}/card.json").read_text()) for n in (1, 2)]
    assert cards[0]["files"] == cards[1]["files"]
    assert "openvino" in cards[1]["tools"]

    assert resx("export", "--reproduce", "model_repository/net/2").code == 0
    assert "computed by openvino" in resx("export", "net.onnx", "--runtime", "openvino", "--name", "x").out
    assert "runtime        openvino" in resx("info", "net").out
    checked = resx("verify", "net", "--json")
    assert checked.code == 0, checked.err
    assert [step["step"] for step in checked.json["steps"]] == ["OpenVINO f32", "OpenVINO f32"]


def test_an_earlier_export_is_taken_again_for_its_own_runtime_alone(resx: Resx, tmp_path: Path) -> None:
    write(tmp_path)
    kept = {"RESX_CACHE": str(tmp_path / "cache"), "RESX_EXPORT_CACHE_GB": "1"}
    (tmp_path / "cache").mkdir(mode=0o700)
    found = [
        resx("export", "net.onnx", "--json", "--runtime", runtime, env=kept).json
        for runtime in ("onnxruntime", "openvino", "openvino", "onnxruntime")
    ]
    assert [(one["version"], one["kept"]) for one in found] == [(1, False), (2, False), (2, True), (3, True)]
    assert [one["runtime"]["name"] for one in found] == ["onnxruntime", "openvino", "openvino", "onnxruntime"]


@needs_bf16
def test_bf16_on_the_cpu_is_the_fp32_file_computed_by_openvino(resx: Resx, tmp_path: Path) -> None:
    write(tmp_path)
    assert resx("export", "net.onnx").code == 0
    done = resx("export", "net.onnx", "--bf16", "--target", "cpu", "--json")
    assert done.code == 0, done.err
    said = done.json
    assert (said["precision"], said["fp16_share"], said["runtime"]["precision_hint"]) == ("bf16", 0.0, "bf16")
    assert "bf16" in said["runtime"]["layer_precisions"]
    assert [step["step"] for step in said["steps"]] == ["fp32 file", "OpenVINO bf16"]
    bounds = [step["tolerance"]["max_rel"] for step in said["steps"]]
    assert bounds == [1e-4, 4e-2]
    folder = tmp_path / "model_repository/net"
    assert (folder / "1/model.onnx").read_bytes() == (folder / "2/model.onnx").read_bytes()
    card = json.loads((folder / "2/card.json").read_text())
    assert card["canary"]["tolerance"] == 0.1
    assert 'HINT_BF16" value { string_value: "YES"' in (folder / "config.pbtxt").read_text()
    assert resx("verify", "net").code == 0
    assert resx("export", "--reproduce", "model_repository/net/2").code == 0


@pytest.mark.skipif(computes_in_bf16(), reason="this processor has BF16")
def test_bf16_is_refused_where_the_processor_has_none(resx: Resx, tmp_path: Path) -> None:
    write(tmp_path)
    refused(resx("export", "net.onnx", "--bf16", "--target", "cpu"), 4, "bf16", "no BF16 instructions")


def test_an_operator_that_openvino_lacks_ends_the_export_before_the_work(resx: Resx, tmp_path: Path) -> None:
    det, scaler = network(), network()
    pool, flatten = det.graph.node[2:4]
    pool.CopyFrom(helper.make_node("Det", ["r"], ["f"]))
    det.graph.node.remove(flatten)
    write(tmp_path, det, "det")
    factors = {"offset": [0.0] * 5, "scale": [1.0] * 5}
    scaler.graph.node[3].output[0] = "flat"
    scaler.graph.node.insert(4, helper.make_node("Scaler", ["flat"], ["f"], domain="ai.onnx.ml", **factors))
    scaler.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    write(tmp_path, scaler, "scaler")
    assert resx("export", "det.onnx").code == 0
    for name, operator in (("det", "Det"), ("scaler", "ai.onnx.ml.Scaler")):
        done = resx("export", f"{name}.onnx", "--runtime", "openvino", "--name", "n", "-q")
        refused(
            done, 1, f"{name}.onnx: OpenVINO rejects it", f"not support operator {operator}", "--runtime onnxruntime"
        )
    assert not (tmp_path / "model_repository/n").exists()


@pytest.mark.parametrize("kind", ["int8", "uint8", "bias"])
def test_a_quantized_file_is_held_to_int8_and_refused_in_bf16(resx: Resx, tmp_path: Path, kind: str) -> None:
    onnx_files.quantised(tmp_path / "q.onnx", kind)
    done = resx("export", "q.onnx", "--runtime", "openvino", "--json")
    assert done.code == 0, done.err
    (step,) = done.json["steps"]
    assert (step["step"], step["tolerance"]["cosine"], done.json["precision"]) == ("OpenVINO int8", 0.99, "int8")
    refused(resx("export", "q.onnx", "--bf16", "--target", "cpu"), 2 if computes_in_bf16() else 4, "bf16")


def test_a_file_in_fp16_is_held_to_fp16_and_refused_in_bf16(resx: Resx, tmp_path: Path) -> None:
    write(tmp_path)
    assert resx("export", "net.onnx", "--fp16", "--name", "half").code == 0
    (tmp_path / "half.onnx").write_bytes((tmp_path / "model_repository/half/1/model.onnx").read_bytes())
    done = resx("export", "half.onnx", "--runtime", "openvino", "--name", "other", "--json")
    assert done.code == 0, done.err
    assert done.json["steps"][0]["tolerance"]["max_rel"] == 1e-2
    refused(resx("export", "half.onnx", "--bf16", "--target", "cpu"), 2 if computes_in_bf16() else 4, "bf16")


@pytest.mark.parametrize("batch", [2, 1])
def test_a_file_of_a_fixed_batch_is_computed_as_it_is(resx: Resx, tmp_path: Path, batch: int) -> None:
    write(tmp_path, network(shape=(batch, 3, 8, 8), data_type=TensorProto.UINT8))
    done = resx("export", "net.onnx", "--runtime", "openvino", "--json")
    assert done.code == 0, done.err
    config = (tmp_path / "model_repository/net/config.pbtxt").read_text()
    assert "ENABLE_BATCH_PADDING" not in config
    assert f"dims: [{batch}, 3, 8, 8]" in config


def test_a_card_from_before_runtimes_is_onnxruntimes(resx: Resx, tmp_path: Path) -> None:
    write(tmp_path)
    assert resx("export", "net.onnx").code == 0
    path = tmp_path / "model_repository/net/1/card.json"
    fields = json.loads(path.read_text())
    del fields["runtime"]
    path.write_text(json.dumps(fields))
    checked = resx("verify", "net", "--json")
    assert checked.code == 0, checked.err
    assert [step["step"] for step in checked.json["steps"]] == ["onnx", "onnx"]
    assert resx("export", "--reproduce", path).code == 0


def test_doctor_says_what_openvino_computes_in(resx: Resx) -> None:
    (found,) = [check for check in resx("doctor", "--json").json["checks"] if check["what"] == "openvino"]
    assert found["found"]
    assert ("no bf16" in found["detail"]) is not computes_in_bf16()
