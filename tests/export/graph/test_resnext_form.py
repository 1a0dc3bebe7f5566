"""ResNeXt goes out in its fastest form, whichever of the three it was built in, and the card proves it."""

from pathlib import Path

import numpy as np
import pytest

from resx.card.kinds import TARGETS, Target
from resx.card.origin import Source
from resx.data.photographs import RealImages
from resx.errors import ParityError
from resx.export.graph.resnext_form import grouped_form
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources import source as export_source
from resx.export.sources.source import LoadedSource, weights_sha256
from resx.zoo.architectures import BottleneckForm, ResNetArchitecture
from resx.zoo.building import build_from_spec
from resx.zoo.families.resnext import convert_form
from tests.support.small_networks import with_statistics
from tests.support.tiny_models import tiny_spec


def resnext(form: BottleneckForm, survival: float = 1.0) -> LoadedSource:
    architecture = ResNetArchitecture(
        block="bottleneck", stage_depths=(1, 1), width=8, inner_width=8, cardinality=4, form=form, stem="cifar"
    )
    spec = tiny_spec().model_copy(update={"architecture": architecture, "survival": survival})
    model = with_statistics(build_from_spec(spec, seed=0))
    description = Source(kind="variant", spec=spec, weights="random", weights_sha256=weights_sha256(model))
    real = np.random.default_rng(1).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    return LoadedSource(
        name="tiny", model=model, description=description, real=RealImages(images=real, origin="a test")
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["aggregated", "concatenated"])
def test_paths_become_grouped_convolutions_and_the_card_shows_it(
    form: BottleneckForm, target: Target, tmp_path: Path
) -> None:
    card = export_version(
        resnext(form, survival=0.8), ExportOptions(max_batch_size=2, target=target), tmp_path, name="m", command="x"
    )
    assert [step.step for step in card.steps] == ["fold", "grouped form", "onnx"]
    assert all(step.passed for step in card.steps)
    assert card.operators_before["Conv"] > 2 * 2 * 4
    assert card.operators_after["Conv"] == 1 + 2 * 3 + 2  # stem, two blocks, two projections
    assert card.source.spec.architecture.form == form  # type: ignore[union-attr]


def test_a_grouped_network_and_one_without_paths_are_left_alone(tmp_path: Path) -> None:
    assert grouped_form(resnext("grouped").model) is None
    assert grouped_form(build_from_spec(tiny_spec(), seed=0)) is None
    card = export_version(resnext("grouped"), ExportOptions(max_batch_size=2), tmp_path, name="m", command="x")
    assert [step.step for step in card.steps] == ["onnx"]


def test_a_form_that_computes_something_else_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that mixes up the paths' order."""
    other = convert_form(resnext("aggregated").model, "grouped")
    block = other.layer1[0]
    block.conv2.weight.data = block.conv2.weight.data.roll(2, 0)
    monkeypatch.setattr(export_source, "grouped_form", lambda _model: other)
    with pytest.raises(ParityError, match="grouped form differs"):
        export_version(resnext("aggregated"), ExportOptions(max_batch_size=2), tmp_path, name="m", command="x")
    assert not list(tmp_path.iterdir())
