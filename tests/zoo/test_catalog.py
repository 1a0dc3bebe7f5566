"""Names, counts and what `import resx` costs."""

import subprocess
import sys

import pytest

import resx
from resx.errors import UsageError
from resx.zoo import building
from resx.zoo.catalog import VARIANTS, kind_of, variant
from resx.zoo.foreign_names import short_name


@pytest.mark.parametrize("name", list(VARIANTS))
def test_golden_counts_are_those_of_the_built_network(name: str) -> None:
    found = VARIANTS[name]

    counted = building.count(found.spec)

    assert counted.num_parameters == found.num_parameters
    assert round(counted.macs / 1e9, 3) == found.gmacs


def test_counting_leaves_the_global_generator_alone() -> None:
    import torch

    before = torch.get_rng_state()
    building.count(VARIANTS["resnet20"].spec)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_variant_is_listed_under_the_name_its_spec_carries() -> None:
    assert resx.list_models() == [found.spec.name for found in VARIANTS.values()]


@pytest.mark.parametrize(("wrong", "offered"), [("resnet5", "resnet50"), ("densenet12", "densenet121")])
def test_an_unknown_name_offers_the_nearest(wrong: str, offered: str) -> None:
    with pytest.raises(UsageError, match=rf"no model named '{wrong}'; did you mean .*{offered}") as caught:
        variant(wrong)

    assert "\n" not in str(caught.value)


def test_a_path_is_not_taken_for_a_name() -> None:
    with pytest.raises(UsageError, match="not a run"):
        kind_of("../x")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("timm:resnet18", "resnet18"), ("timm:resnet18.a1_in1k", "resnet18.a1_in1k"), ("a.b:make", "make"),
        ("hf:timm/vgg11.tv_in1k", "vgg11.tv_in1k"), ("hf:org/name@main", "name"), ("hf:org/name@refs/pr/1", "name"),
        ("torchvision:vgg11", "vgg11"),
    ],
)  # fmt: skip
def test_a_network_of_a_collection_is_published_under_its_own_name(source: str, name: str) -> None:
    assert (kind_of(source), short_name(source)) == ("foreign", name)


@pytest.mark.parametrize(
    "source",
    ["timm:", "timm:a b", "timm:.x", "timm:x.", "timm:../x", "hf:", "hf:x", "hf:a/b/c", "hf:a/", "hf:/b", "hf:-a/b",
     "hf:a/b@", "hf:a b/c", "hf:.", "hf:../nowhere", "hf:a/b\n", "torchvision:", "torchvision:a.b"],
)  # fmt: skip
def test_a_malformed_name_of_a_collection_is_one_line(source: str) -> None:
    with pytest.raises(UsageError) as caught:
        kind_of(source)
    assert "; give " in str(caught.value) or ": give " in str(caught.value)


@pytest.mark.parametrize("survival", [0.0, -0.1, 1.5])
def test_a_survival_probability_outside_0_to_1_is_refused(survival: float) -> None:
    with pytest.raises(UsageError, match=r"survival=.*give a probability in \(0, 1\]"):
        resx.build("resnet20", survival=survival)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="classes=1: give 2 or more"):
        resx.build("resnet20", classes=1)


def test_importing_resx_and_listing_its_models_imports_no_torch() -> None:
    script = (
        "import sys, resx; resx.list_models(); "
        "print([name for name in ('torch', 'torchvision', 'onnx', 'tritonclient') if name in sys.modules])"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"
