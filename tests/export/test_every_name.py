"""Every name of `resx models`: build, fold, export, verify."""

from pathlib import Path

import pytest

from resx.card.origin import Source
from resx.data.photographs import RealImages, photograph_crops
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources.source import LoadedSource, weights_sha256
from resx.training.batch_norms import fit_batch_norms
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import VARIANTS


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_name_becomes_a_verified_file(name: str, tmp_path: Path) -> None:
    spec = VARIANTS[name].spec
    if not spec.architecture.undroppable:
        spec = spec.with_changes(survival=0.5)
    model = build_from_spec(spec, seed=0)
    fit_batch_norms(model, spec, [photograph_crops(4, spec.image_size, seed=0)])
    source = LoadedSource(
        name=name,
        model=model,
        description=Source(kind="variant", spec=spec, weights="random (seed 0)", weights_sha256=weights_sha256(model)),
        real=RealImages(images=photograph_crops(2, spec.image_size, seed=0), origin="photographs"),
    )

    card = export_version(source, ExportOptions(max_batch_size=2), tmp_path, name=name, command="test")

    assert card.verified
    assert [step.step for step in card.steps] == (["fold", "onnx"] if spec.survival < 1 else ["onnx"])
