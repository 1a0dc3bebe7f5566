from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resx.errors import UsageError
from resx.export.source import load_source
from resx.zoo.building import build_from_spec
from tests.conftest import Finished

MODULE = """
import torch
from torch import nn

def small():
    features = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*features, nn.Linear(8, 5))

def number():
    return 7

def broken():
    raise RuntimeError("no weights here")

def images():
    return nn.Conv2d(3, 3, 1)
"""


@pytest.mark.parametrize("fp16", [False, True])
def test_a_function_of_the_users_is_exported_and_verified(
    resx: Callable[..., Finished], tmp_path: Path, fp16: bool
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    done = resx("export", "mine:small", "--image-size", "20", "--json", *(["--fp16"] if fp16 else []))
    assert done.code == 0, done.err
    assert (done.json["name"], done.json["verified"]) == ("small", True)
    assert "[ 3, 20, 20 ]" in (tmp_path / "model_repository/small/config.pbtxt").read_text()
    info = resx("info", "small", "--json").json["card"]["source"]
    assert (info["kind"], info["spec"]["architecture"]) == ("foreign", {"family": "foreign", "source": "mine:small"})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mine:nothing", "has no attribute 'nothing'"),
        ("mine:number", "returned int"),
        ("mine:broken", "calling it failed: RuntimeError: no weights here"),
        ("mine:images", "resx serves classifiers"),
        ("nosuchmodule:x", "No module named 'nosuchmodule'"),
        ("torchvision:alexnt", "did you mean alexnet"),
        ("torchvision:fcn_resnet50", "no such model"),
        ("../x:y", "give torchvision:NAME, or module:function"),
        ("mine:small()", "give torchvision:NAME, or module:function"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_source(source, weights="none", seed=0)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchvisions_networks_have_its_image_format_and_a_seed() -> None:
    first, second, other = (load_source("torchvision:squeezenet1_1", weights="none", seed=seed) for seed in (0, 0, 1))
    assert first.description.weights_sha256 == second.description.weights_sha256
    assert first.description.weights_sha256 != other.description.weights_sha256
    spec = first.description.spec
    assert (spec.classes, spec.image_size, spec.resize) == (1000, 224, 256)


def test_weights_for_a_foreign_network_come_from_a_file(tmp_path: Path) -> None:
    import torchvision

    model = torchvision.models.squeezenet1_1(weights=None)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    loaded = load_source("torchvision:squeezenet1_1", weights=str(tmp_path / "w.pth"), seed=3)
    assert all((loaded.model.state_dict()[name] == tensor).all() for name, tensor in model.state_dict().items())
    with pytest.raises(UsageError, match="another architecture"):
        load_source("torchvision:alexnet", weights=str(tmp_path / "w.pth"), seed=3)


def test_a_torchvision_network_takes_another_number_of_classes_and_no_other_setting(tmp_path: Path) -> None:
    import torchvision

    model = torchvision.models.squeezenet1_1(weights=None, num_classes=14)
    torch.save({"state_dict": {f"module.{name}": t for name, t in model.state_dict().items()}}, tmp_path / "w.pth")
    source, weights = "torchvision:squeezenet1_1", str(tmp_path / "w.pth")
    with pytest.raises(UsageError, match=rf"holds 14 classes, {source} has 1000: --set classes=14$"):
        load_source(source, weights=weights, seed=3)
    loaded = load_source(source, weights=weights, seed=3, settings=["classes=14"])
    assert loaded.description.network.classes == 14
    assert loaded.description.weights == f"{weights} (entry state_dict)"
    for setting in ("classes=1", "classes=x", "version=1_0", "classes"):
        with pytest.raises(UsageError, match="takes classes=N only"):
            load_source(source, weights="none", seed=0, settings=[setting])
    for name in (source, "resnet18"):
        with pytest.raises(UsageError, match="the published weights have 1000 classes"):
            load_source(name, weights="imagenet", seed=0, settings=["classes=14"])


def test_a_function_of_the_users_builds_as_many_classes_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(classes=10):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import nets  # type: ignore[import-not-found]

    torch.save({f"model.{name}": t for name, t in nets.make(14).state_dict().items()}, "w.pth")
    with pytest.raises(UsageError, match="holds 14 classes, nets:make has 10: let nets:make return a network of 14 cl"):
        load_source("nets:make", weights="w.pth", seed=0)
    with pytest.raises(UsageError, match=r"--set classes=14: nets:make builds its network itself"):
        load_source("nets:make", weights="w.pth", seed=0, settings=["classes=14"])


def test_an_image_size_is_for_foreign_networks_only() -> None:
    with pytest.raises(UsageError, match="has a size of its own"):
        load_source("resnet20", weights="none", seed=0, image_size=16)


def test_a_spec_of_a_foreign_network_calls_nothing() -> None:
    spec = load_source("torchvision:squeezenet1_1", weights="none", seed=0).description.spec
    with pytest.raises(UsageError, match="cannot be built from its description"):
        build_from_spec(spec, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", ["alexnet", "googlenet", "inception_v3", "mobilenet_v3_small", "vit_b_16", "efficientnet_b0"]
)
def test_torchvisions_other_networks_are_exported_and_verified(name: str, tmp_path: Path) -> None:
    from resx.export.pipeline import ExportOptions, export_version

    source = load_source(f"torchvision:{name}", weights="none", seed=0)
    card = export_version(source, ExportOptions(max_batch_size=2), tmp_path, name=name, command="a test")
    assert card.verified
