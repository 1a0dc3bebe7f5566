"""The check of the checks: a file with any usual fault in it is never published, and found if it was.

Each fault is put into the written file, between writing and verifying. The network is trained, so that its batch
norms hold what training gives, and faults are as small as they are in practice.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from resx.card.origin import Source
from resx.cli.main import main
from resx.data.photographs import RealImages, photograph_crops
from resx.errors import ParityError
from resx.export.graph import onnx_writer
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources.source import LoadedSource, load_source, weights_sha256
from resx.files.staging import sha256_of
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec
from tests.support.export_faults import FAULTS, NETWORK_FAULTS, change, changed_weight, through_half
from tests.support.tiny_models import tiny_spec

Command: TypeAlias = Callable[..., int]
OPTIONS = {
    "fp32": (),
    "fp16": ("--fp16",),
    "int8": ("--int8", "--calibrate-images", "8", "--calibrate-method", "minmax"),
}


def run_command(*arguments: str | Path) -> int:
    """Run the command in this process, where its writer can be replaced, and return its exit code."""
    before = sys.argv
    sys.argv = ["resx", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("main ends the process")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that was trained on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = ("--set", "stage_depths=[2,2,2]", "--image-size", "16", "--epochs", "3")
    assert run_command("train", "resnet20", *settings, "-o", folder, "-q") == 0
    return folder


@pytest.fixture(scope="module")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the network as `m`."""
    repository = tmp_path_factory.mktemp("published") / "model_repository"
    assert run_command("export", run, "--name", "m", "--repository", repository, "-q") == 0
    return repository


@pytest.fixture(scope="module")
def faulty(run: Path, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a function that makes the file with a fault, once."""
    folder = tmp_path_factory.mktemp("faulty")
    source = load_source(str(run), weights="none", seed=0)

    def make(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if path.exists():
            return path
        fault: Any = FAULTS[name]
        if name in NETWORK_FAULTS:
            network = copy.deepcopy(source.model)
            spec = fault(network, source.description.spec)
            onnx_writer.write_onnx(network, spec, path, precision="fp32", input_type="uint8", target="cpu")
        else:
            shutil.copyfile(published / "m" / "1" / "model.onnx", path)
            change(path, fault)
        return path

    return make


def writes(path: Path) -> Callable[..., onnx.ModelProto]:
    """Return a writer that always writes this file."""

    def write(*arguments: Any, **options: Any) -> onnx.ModelProto:
        shutil.copyfile(path, arguments[2])
        return onnx.load(path)

    return write


@pytest.mark.parametrize("precision", OPTIONS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_is_not_published(
    name: str,
    precision: str,
    faulty: Callable[[str], Path],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """fp16's and int8's own bounds are too wide for some, and grey digits do not tell red from blue."""
    monkeypatch.setattr(onnx_writer, "write_onnx", writes(faulty(name)))
    assert run_command("export", run, *OPTIONS[precision], "--repository", tmp_path / "model_repository", "-q") == 3
    said = capsys.readouterr().err
    assert "nothing was published" in said
    assert ("fp32 file" in said) == (precision != "fp32")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "name", sorted(FAULTS.keys() - {"a weight of few bits after fp16", "batch norms with epsilon 1e-3"})
)
def test_a_fault_that_only_the_fp16_file_has_is_found_too(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few bits are what fp16 is, and this network's variances are large; all else is above what rounding explains."""
    write, fault = onnx_writer.write_onnx, cast("Any", FAULTS[name])

    def wrong(network: nn.Module, spec: ModelSpec, path: Path, **options: Any) -> onnx.ModelProto:
        is_fp16 = options["precision"] == "fp16"
        if is_fp16 and name in NETWORK_FAULTS:
            network = copy.deepcopy(network)
            spec = fault(network, spec)
        write(network, spec, path, **options)
        if is_fp16 and name not in NETWORK_FAULTS:
            change(path, fault)
        return onnx.load(path)

    monkeypatch.setattr(onnx_writer, "write_onnx", wrong)
    assert run_command("export", run, "--fp16", "--repository", tmp_path / "model_repository", "-q") == 3
    assert "onnx differs from its source" in capsys.readouterr().err


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_in_the_repository_is_found_though_its_hash_is_in_the_card(
    name: str, faulty: Callable[[str], Path], published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "model_repository"
    shutil.copytree(published, repository)
    folder = repository / "m" / "1"
    shutil.copyfile(faulty(name), folder / "model.onnx")
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    (folder / "card.json").write_text(json.dumps(card))
    assert run_command("verify", "m", "--repository", repository, "--json", "-q") == 3
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert (checks[0]["passed"], checks[2]["passed"]) == (True, False), "the source tells, not the hash"


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_is_found_beside_the_good_one_and_well_over_the_bar(
    name: str, faulty: Callable[[str], Path], published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = published / "m" / "1" / "model.onnx"
    assert run_command("verify", good, faulty(name), "--json", "-q") == 3
    found = json.loads(capsys.readouterr().out)
    smallest = found["outputs"][0]["smallest_rtol"]
    assert smallest is None or smallest > 3e-4, "the bar is 1e-4"


def test_without_a_fault_all_three_pass(
    published: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is not the way in which the faults are put in that fails."""
    good = published / "m" / "1" / "model.onnx"
    assert run_command("verify", good, good, "-q") == 0
    assert run_command("verify", "m", "--repository", published, "-q") == 0
    monkeypatch.setattr(onnx_writer, "write_onnx", writes(good))
    assert run_command("export", run, "--repository", tmp_path / "model_repository", "-q") == 0


def set_epsilon(model: onnx.ModelProto) -> None:
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert norms
    for node in norms:
        (attribute,) = (entry for entry in node.attribute if entry.name == "epsilon")
        attribute.f = 1e-3


def reverse_statistics(_network: nn.Module, spec: Any) -> Any:
    return spec.model_copy(update={"mean": spec.mean[::-1], "std": spec.std[::-1]})


@pytest.mark.parametrize("fault", [set_epsilon, changed_weight(lambda weight: weight[:, ::-1], number=0)])
def test_batch_norms_that_stay_in_the_graph_are_checked_too(
    fault: Callable[[onnx.ModelProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-activation networks keep theirs for the GPU."""
    write = onnx_writer.write_onnx

    def wrong(*arguments: Any, **options: Any) -> onnx.ModelProto:
        write(*arguments, **options)
        change(arguments[2], fault)
        return onnx.load(arguments[2])

    command = ("export", "preresnet110", "--set", "stage_depths=[1,1,1]", "--target", "gpu", "-q")
    monkeypatch.setattr(onnx_writer, "write_onnx", wrong)
    assert run_command(*command, "--repository", tmp_path / "model_repository") == 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_colour_statistics_in_the_wrong_order_are_found_on_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = onnx_writer.write_onnx

    def wrong(network: nn.Module, spec: Any, path: Path, **options: Any) -> onnx.ModelProto:
        return write(network, reverse_statistics(network, spec), path, **options)

    monkeypatch.setattr(onnx_writer, "write_onnx", wrong)
    command = ("export", "resnet20", "--set", "stage_depths=[1,1,1]", "-q")
    assert run_command(*command, "--repository", tmp_path / "model_repository") == 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_weights_that_fp16_cannot_hold_are_not_published(tmp_path: Path) -> None:
    """Nothing is put in here: fp32 computes with these weights, and fp16 keeps a few bits of them."""
    spec = tiny_spec()
    model = build_from_spec(spec, seed=0).eval()
    block = model.layer1[0]
    with torch.no_grad():
        block.bn1.weight.mul_(2.0**-20)  # so is the convolution before it, once they are one
        block.bn1.bias.mul_(2.0**-20)
        block.conv2.weight.mul_(2.0**14)
        block.bn2.weight.mul_(2.0**6)
    source = LoadedSource(
        name="tiny",
        model=model,
        description=Source(kind="variant", spec=spec, weights="of a test", weights_sha256=weights_sha256(model)),
        real=RealImages(images=photograph_crops(8, 16, seed=0), origin="photographs"),
    )
    assert export_version(source, ExportOptions(), tmp_path, name="m", command="x").verified
    with pytest.raises(ParityError, match="nothing was published"):
        export_version(source, ExportOptions(precision="fp16"), tmp_path, name="m", command="x")


def test_bits_are_lost_where_the_faults_say_so() -> None:
    """The faults' own arithmetic: below 2^-24 a weight is gone, above it a few bits are."""
    weight = np.array([0.1, 0.3, 1.0], np.float32)
    assert through_half(weight, 2.0**-22).tolist() == [0.0, 0.25, 1.0]
    assert 0 < np.abs(through_half(weight, 2.0**-14) - weight).max() < 1e-3
