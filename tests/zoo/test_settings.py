import pytest

from resx.errors import UsageError
from resx.zoo.catalog import variant


def test_a_field_of_the_architecture_is_set_by_name() -> None:
    spec = variant("preresnet110").spec.with_settings(["variant=original"])
    assert spec.architecture.variant == "original"  # type: ignore[union-attr]
    spec = variant("resnext29_8x64d").spec.with_settings(["cardinality=16", "form=aggregated"])
    assert (spec.architecture.cardinality, spec.architecture.form) == (16, "aggregated")  # type: ignore[union-attr]
    spec = variant("densenet40_12").spec.with_settings(["growth_rate=24"])
    assert spec.architecture.growth_rate == 24  # type: ignore[union-attr]


def test_nothing_set_changes_nothing() -> None:
    assert variant("resnet50").spec.with_settings([]) == variant("resnet50").spec


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("resnext29_8x64d", "cardinality=7", "does not divide"),
        ("resnext29_8x64d", "cardinalty=7", "did you mean cardinality"),
        ("preresnet110", "variant=modern", "variant"),
        ("resnet20", "width=0", "width"),
        ("resnet20", "family=vgg", "give field=value"),
        ("resnet20", "width", "give field=value"),
    ],
)
def test_what_cannot_be_set_is_one_line(name: str, setting: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        variant(name).spec.with_settings([setting])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
