"""The whole line, through the commands that a user types."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Finished

pytestmark = pytest.mark.triton


def test_the_demo_goes_from_training_to_a_measured_server(resx: Callable[..., Finished], tmp_path: Path) -> None:
    done = resx("demo", "--epochs", "2", "--duration", "1", "--json", "-o", "kept")
    assert done.code == 0, done.err
    summary = done.json
    assert summary["num_images"] == 355
    assert summary["fold_max_abs"] <= 1e-4 * max(1, summary["scale"])
    assert [model["name"] for model in summary["served"]] == ["digits_fp32", "digits_fp16"]
    single, half = summary["served"]
    for model in (single, half):
        assert model["same"] == {"grpc": 355, "http": 355}
        assert model["measured"]["errors"] == {}
        assert model["measured"]["requests"] > 0
    assert half["fp16_share"] > 0.95
    assert half["size_kb"] < 0.6 * single["size_kb"]
    assert (tmp_path / "kept/model_repository/digits_fp32/1/card.json").is_file()
    status = resx("status", "--repository", "kept/model_repository", "--url", "127.0.0.1:9")
    assert status.code == 4, "the demo stopped its server"


def test_a_run_goes_through_train_export_serve_deploy_query_and_bench(
    resx: Callable[..., Finished], tmp_path: Path
) -> None:
    """The README's line, on a small network."""
    train = resx("train", "resnet20", "--survival", "0.5", "--epochs", "1", "-o", "runs/digits", "--json")
    assert train.code == 0, train.err
    assert train.json["num_held_out"] == 355
    files = sorted(path.name for path in (tmp_path / "runs/digits").iterdir())
    assert {"metrics.jsonl", "model.safetensors", "resume.safetensors", "spec.json", "training.json"} <= set(files)

    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    export = resx("export", "runs/digits", "--fp16", "--json")
    assert export.code == 0, export.err
    assert (export.json["name"], export.json["version"], export.json["verified"]) == ("digits", 1, True)
    assert [step["step"] for step in export.json["steps"]] == ["fold", "fp32 file", "onnx"]
    info = resx("info", "digits", "--json").json
    assert info["card"]["source"]["kind"] == "run"
    assert info["card"]["command"].endswith("export runs/digits --fp16 --json")
    try:
        serve = resx("serve", "--detach", "--load-none", "--json", *ports)
        assert serve.code == 0, serve.err
        assert serve.json["not_loaded"] == ["digits"]
        deploy = resx("deploy", "digits", "--json")
        assert deploy.code == 0, deploy.err
        assert deploy.json["canary_difference"] < 2e-2
        Image.fromarray(np.full((40, 30), 200, np.uint8)).save(tmp_path / "grey.png")
        query = resx("query", "digits", "grey.png", "--top", "3", "--json").json
        assert [guess["label"][:6] for guess in query["images"][0]["top"]] == ["digit-"] * 3
        bench = resx("bench", "digits", "--concurrency", "2", "--duration", "1", "--json")
        assert bench.code == 0, bench.err
        assert bench.json["measurements"][0]["server"]["requests"] > 0
    finally:
        assert resx("stop").code == 0
