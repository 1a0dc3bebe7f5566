"""Exports that must not be published are not; those that are carry their proof."""

from pathlib import Path

import numpy as np
import pytest
import torch

from resx.card.card import read_card
from resx.card.origin import Source
from resx.data.photographs import RealImages
from resx.errors import ParityError, ResxError, UsageError
from resx.export import pipeline
from resx.export.checks import parity
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources.source import LoadedSource, load_source, weights_sha256
from resx.zoo.building import build_from_spec
from tests.support.tiny_models import tiny_spec


def source(survival: float = 1.0) -> LoadedSource:
    spec = tiny_spec(survival=survival)
    model = build_from_spec(spec, seed=0).eval()
    description = Source(kind="variant", spec=spec, weights="random", weights_sha256=weights_sha256(model))
    real = np.random.default_rng(1).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    return LoadedSource(
        name="tiny", model=model, description=description, real=RealImages(images=real, origin="a test")
    )


def test_the_card_holds_every_step_and_the_files_hash(tmp_path: Path) -> None:
    card = export_version(source(0.5), ExportOptions(max_batch_size=4), tmp_path, name="m", command="resx export m")
    assert [step.step for step in card.steps] == ["fold", "onnx"]
    assert all(step.passed for step in card.steps)
    assert card.steps[1].batch_sizes == (1, 2, 3, 4)
    assert card.files == {"model.onnx": pipeline.sha256_of(tmp_path / "model.onnx")}
    assert card.source.weights_sha256 == weights_sha256(source(0.5).model)
    assert {"torch", "onnx", "onnxruntime", "resx"} <= set(card.tools)
    assert read_card(tmp_path) == card


def test_a_network_above_2_gb_is_refused_before_the_work(tmp_path: Path) -> None:
    huge = source()
    huge.model.register_parameter("more", torch.nn.Parameter(torch.zeros(1).expand(600_000_000)))  # takes no memory
    with pytest.raises(UsageError, match="2.4 GB with its weights"):
        export_version(huge, ExportOptions(), tmp_path, name="m", command="x")
    assert list(tmp_path.iterdir()) == []


def test_without_verification_the_card_says_so(tmp_path: Path) -> None:
    card = export_version(source(), ExportOptions(verify=False), tmp_path, name="m", command="x")
    assert not card.verified
    assert card.steps == ()


def test_a_bar_of_the_users_own_is_in_the_card_and_holds(tmp_path: Path) -> None:
    card = export_version(source(), ExportOptions(atol=0.5), tmp_path, name="m", command="x")
    assert card.steps[-1].tolerance.max_abs == 0.5
    with pytest.raises(ParityError):
        export_version(source(), ExportOptions(atol=1e-12), tmp_path, name="m", command="x")


def test_a_full_disk_is_seen_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = type(shutil.disk_usage(tmp_path))(100, 100, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(ResxError, match="0 MB free"):
        export_version(source(), ExportOptions(), tmp_path, name="m", command="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields", [{"max_batch_size": 0}, {"max_batch_size": 5000}, {"atol": 0.0}, {"rtol": float("nan")}]
)
def test_options_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give"):
        ExportOptions(**fields)  # type: ignore[arg-type]


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    from resx.runtimes.onnxruntime_model import OnnxRuntimeModel

    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="x.onnx: truncated or not an ONNX model"):
        OnnxRuntimeModel(tmp_path / "x.onnx")


def test_an_unknown_source_offers_names_and_a_path_is_called_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean resnet50"):
        load_source("resnt50", weights="none", seed=0)
    with pytest.raises(UsageError, match="not a run"):
        load_source("../x", weights="none", seed=0)
    with pytest.raises(UsageError, match=r"has no spec.json"):
        load_source(str(tmp_path), weights="none", seed=0)


def test_weights_of_another_architecture_name_the_keys(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = build_from_spec(tiny_spec(), seed=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"another architecture: \d+ missing \(layer.*of another shape"):
        load_source("resnet20", weights=str(tmp_path / "w.safetensors"), seed=0)


def test_a_deep_plain_network_is_published_in_fp16_though_it_amplifies_rounding(tmp_path: Path) -> None:
    """Without shortcuts each layer's rounding is carried through all the others; there is no fault in that."""
    plain = load_source("plain56", weights="none", seed=0)
    card = export_version(plain, ExportOptions(precision="fp16", max_batch_size=2), tmp_path, name="m", command="x")
    fp32_form, fp16 = card.steps
    assert fp32_form.max_abs <= 1e-4 * fp32_form.scale
    assert fp16.tolerance.max_rel is not None
    assert fp16.max_abs <= fp16.tolerance.max_rel * fp16.scale <= 5e-2 * fp16.scale
    batch = plain.real.images
    alone = parity.compare("rounding", [plain.logits(batch)], [plain.rounded("fp16").logits(batch)], fp16.tolerance)
    assert alone.max_abs > 5e-3 * alone.scale, "PyTorch's own rounding does it too"
