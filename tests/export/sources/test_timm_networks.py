"""timm:NAME and hf:ORG/NAME: built by timm, with its weights; what cannot be is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from resx.card.card import read_card
from resx.errors import UsageError
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.request import ExportRequest, key_of
from resx.export.sources.hub_errors import explain
from resx.export.sources.source import load_source
from tests.support.command import Resx, refused

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 160, 160), dtype=np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as timm saves for the Hub."""
    folder = tmp_path_factory.mktemp("saved") / "pets"
    torch.manual_seed(0)
    names = {"label_names": ["cat", "dog", "fish"], "label_descriptions": {"cat": "a cat", "dog": "a dog", "fish": "?"}}
    model = timm.create_model("test_efficientnet", num_classes=3)
    save_for_hf(model, folder, model_config=names, safe_serialization=True)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        *(
            pytest.param(name, marks=pytest.mark.integration)
            for name in ("test_efficientnet.r160_in1k", "test_convnext", "test_vit", "test_nfnet")
        ),
    ],
)
def test_a_network_of_timms_is_exported_in_both_precisions(name: str, tmp_path: Path) -> None:
    source = load_source(f"timm:{name}", weights="none", seed=0)
    assert (source.name, source.description.is_random) == (name, True)
    for precision in ("fp32", "fp16"):
        card = export_version(
            source,
            ExportOptions(precision=precision, max_batch_size=3),  # type: ignore[arg-type]
            tmp_path,
            name="x",
            command="a test",
        )
        assert card.verified
        (tmp_path / "model.onnx").unlink()


def test_random_weights_have_a_seed_and_no_branch_that_adds_nothing() -> None:
    first, again, other = (load_source("timm:test_resnet", weights="none", seed=seed) for seed in (0, 0, 1))
    assert first.description.weights_sha256 == again.description.weights_sha256
    assert first.description.weights_sha256 != other.description.weights_sha256
    assert first.description.weights == "random (seed 0)"
    untouched = timm.create_model("test_resnet")
    zeros = [name for name, value in untouched.named_parameters() if name.endswith("weight") and not value.any()]
    assert zeros, "timm starts the last norms of branches at zero"
    state = first.model.state_dict()
    assert all(state[name].any() for name in zeros)


def test_layer_scales_of_random_weights_are_no_millionths() -> None:
    source = load_source("timm:test_convnext", weights="none", seed=0)
    scales = [value for name, value in source.model.named_parameters() if name.endswith("gamma")]
    assert scales
    assert all((value >= 0.1).all() for value in scales)


def test_a_file_of_weights_and_a_number_of_classes_fit_a_network_of_timms(tmp_path: Path) -> None:
    theirs = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict_ema": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "w.pth.tar")
    for file in ("w.safetensors", "w.pth.tar"):
        weights = str(tmp_path / file)
        with pytest.raises(UsageError, match=r"holds 7 classes, timm:test_resnet has 1000: --set classes=7$"):
            load_source("timm:test_resnet", weights=weights, seed=0)
        source = load_source("timm:test_resnet", weights=weights, seed=0, settings=["classes=7"])
        assert all((source.model.state_dict()[name] == value).all() for name, value in theirs.state_dict().items())
        assert (source.description.network.classes, source.description.network.labels) == (7, ())


def test_a_folder_in_timms_form_gives_timms_own_network_with_its_labels(saved: Path) -> None:
    source = load_source(f"hf:{saved}", weights="none", seed=0)
    theirs = timm.create_model(f"local-dir:{saved}", pretrained=True).eval()
    spec = source.description.network
    assert (source.name, spec.labels, source.description.is_random) == ("pets", ("a cat", "a dog", "?"), False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        expected = theirs((torch.from_numpy(IMAGES) / 255 - mean) / std).numpy()
    assert np.abs(source.logits(IMAGES) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.integration
def test_a_repository_in_the_hubs_cache_needs_no_network(saved: Path, tmp_path: Path, resx: Resx) -> None:
    cached = tmp_path / "hub/models--somebody--pets"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0123456789abcdef0123456789abcdef01234567")
    shutil.copytree(saved, cached / "snapshots/0123456789abcdef0123456789abcdef01234567")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = resx("export", "hf:somebody/pets", "--json", env=offline)
    assert (done.code, done.json["name"]) == (0, "pets"), done.err
    card = read_card(tmp_path / "model_repository/pets/1")
    assert card.source.weights == "somebody/pets (commit 0123456789abcdef0123456789abcdef01234567)"
    assert card.source.network.labels == ("a cat", "a dog", "?")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "page", "folder"),
    [
        (["hf:somebody/other"], "huggingface.co/somebody/other", "models--somebody--other"),
        (["hf:somebody/other@v2"], "--revision v2", "models--somebody--other"),
        (
            ["timm:test_resnet", "--weights", "imagenet"],
            "huggingface.co/timm/test_resnet.r160_in1k",
            "models--timm--test_resnet.r160_in1k",
        ),
    ],
)
def test_without_a_network_one_line_says_what_to_download_and_where_it_goes(
    tmp_path: Path, resx: Resx, arguments: list[str], page: str, folder: str
) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = resx("export", *arguments, env=offline)
    refused(done, 4, page, "hf download ", f"copy the folder {folder} of its cache to {tmp_path / 'hub'}")
    assert not (tmp_path / "model_repository").exists()


def test_weights_that_lie_elsewhere_than_on_the_hub_are_named_with_their_place() -> None:
    config = {"url": "https://example.org/weights/net-12345678.pth"}
    said = str(explain("timm:x", config, ConnectionError("no route to host")))
    assert said.startswith(
        "timm:x: https://example.org/weights/net-12345678.pth cannot be downloaded (no route to host)"
    )
    assert said.endswith("checkpoints/net-12345678.pth")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("timm:", "give timm:NAME or timm:NAME.TAG"),
        ("timm:a/b", "give timm:NAME or timm:NAME.TAG"),
        ("timm:resnet18.", "give timm:NAME or timm:NAME.TAG"),
        ("timm:resnet17", "timm has no such network; did you mean resnet"),
        ("timm:nothing_like_it_at_all", "timm has no such network"),
        ("timm:resnet18.nosuchtag", "no tag 'nosuchtag'; give timm:resnet18 or one of its tags, a1_in1k"),
        ("timm:test_mambaout.x", "it has none: give timm:test_mambaout"),
        ("timm:tv_resnet34", "timm calls it timm:resnet34.tv_in1k now"),
        ("timm:vit_small_patch14_dinov2", "outputs features, not classes"),
        ("timm:test_resnet.r160_in1k", "weights w.pth"),
        ("hf:", "give hf:ORG/NAME"),
        ("hf:x", "give hf:ORG/NAME"),
        ("hf:a/b/c", "give hf:ORG/NAME"),
        ("hf:a/b@", "give hf:ORG/NAME"),
        ("hf:https://huggingface.co/a/b", "give hf:ORG/NAME"),
        ("hf:./nowhere", "no such folder; give a folder that timm's save_for_hf wrote"),
        ("hf:./empty", "has no config.json"),
        ("hf:./transformers", "names no architecture of timm (transformers wrote it)"),
        ("hf:./list", "is not a JSON object"),
        ("hf:./cut", "is not a JSON object"),
        ("hf:./unknown", "has no network 'resnet17'; did you mean resnet"),
        ("hf:./bare", "timm cannot build it"),
        ("hf:./strange", "timm cannot build it"),
        ("hf:./damaged", "timm cannot build it"),
    ],
)
def test_what_is_no_network_of_timms_is_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    def folder(name: str, config: object) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return tmp_path / name

    (tmp_path / "empty").mkdir()
    folder("transformers", {"architectures": ["ResNetForImageClassification"], "transformers_version": "4.20"})
    folder("list", [1])
    folder("cut", '{"architecture": "resn')
    folder("unknown", {"architecture": "resnet17"})
    folder("bare", {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {}})
    folder("strange", {"architecture": "test_resnet", "pretrained_cfg": {"nothing": 1}})
    config = json.loads((saved / "config.json").read_text())
    (folder("damaged", config) / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    weights = "none"
    if words.startswith("weights"):
        torch.save({"x": torch.zeros(3)}, "w.pth")
        weights, words = "w.pth", "w.pth"
    with pytest.raises(UsageError) as caught:
        load_source(source, weights=weights, seed=0)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "imagenet"}, "--weights imagenet: hf:"),
        ({"weights": "w.pth"}, "--weights w.pth: hf:"),
        ({"settings": ["classes=4"]}, "--set classes=4: hf:"),
        ({"weights_entry": "ema", "weights": "w.pth"}, "has its own; remove the option"),
    ],
)
def test_a_repository_of_the_hub_has_its_own_weights(saved: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match="has its own; remove the option") as caught:
        load_source(f"hf:{saved}", **{"weights": "none", "seed": 0} | options)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_published_weights_have_their_own_classes_and_some_networks_have_none() -> None:
    with pytest.raises(UsageError, match="the published weights have 1000 classes"):
        load_source("timm:test_resnet", weights="imagenet", seed=0, settings=["classes=3"])
    with pytest.raises(UsageError, match="timm publishes no weights of it"):
        load_source("timm:test_mambaout", weights="imagenet", seed=0)


def test_an_image_size_that_a_network_cannot_take_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"timm:test_vit: fails on \[2, 3, 100, 100\]") as caught:
        load_source("timm:test_vit", weights="none", seed=0, image_size=100)
    assert "\n" not in str(caught.value)


def test_what_the_hub_holds_today_is_never_taken_from_the_cache_of_exports() -> None:
    def key(source: str, weights: str = "none") -> str | None:
        arguments = {"source": source, "weights": weights, "seed": 0, "image_size": None, "settings": ()}
        return key_of(ExportRequest.model_validate({"source": arguments, "target": "cpu"}))

    assert key("timm:test_resnet")
    assert key("timm:test_resnet", "imagenet") is None
    assert key("hf:somebody/pets") is None


@pytest.mark.integration
def test_a_card_of_a_folder_is_verified_and_reproduced_from_where_it_was_made(
    saved: Path, tmp_path: Path, resx: Callable[..., object]
) -> None:
    shutil.copytree(saved, tmp_path / "pets")
    for arguments in (
        ("export", "hf:./pets", "-q"),
        ("verify", "pets", "-q"),
        ("export", "--reproduce", "model_repository/pets/1/card.json", "-q"),
    ):
        done = resx(*arguments)
        assert done.code == 0, done.err  # type: ignore[attr-defined]
