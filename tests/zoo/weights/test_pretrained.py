"""Weights from files and downloads, good and bad."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import resx
from resx.errors import MissingCapability, UsageError
from resx.files.staging import sha256_of
from resx.zoo.catalog import VARIANTS
from resx.zoo.weights import pretrained


@pytest.fixture
def model() -> nn.Module:
    return resx.build("resnet20", seed=0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def _published(folder: Path, model: nn.Module) -> tuple[str, str]:
    """Put a file on a host (here: a folder), named as torchvision names them; return its URL and name."""
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "weights.pth")
    name = f"model-{sha256_of(folder / 'weights.pth')[:8]}.pth"
    (folder / "weights.pth").rename(folder / name)
    return (folder / name).as_uri(), name


def _fill_with_ones(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_saved_state_dict_is_read_back_unchanged(tmp_path: Path, model: nn.Module, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    other = resx.build("resnet20", seed=1)

    pretrained.load_weights(other, pretrained.read_weights(path), source=str(path))

    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_the_envelopes_of_training_scripts_are_opened(tmp_path: Path, model: nn.Module, wrapper: str) -> None:
    path = tmp_path / "checkpoint.pth"
    parallel = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({wrapper: parallel, "epoch": 3}, path)

    assert list(pretrained.read_weights(path)) == list(model.state_dict())


def test_missing_names_are_reported_and_counted(model: nn.Module) -> None:
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}

    with pytest.raises(UsageError, match=r"^w: weights of another architecture: 2 missing \(fc\.weight, fc\.bias\);"):
        pretrained.load_weights(model, state, source="w")


def test_unknown_names_are_reported(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"1 unknown \(head\.weight\)"):
        pretrained.load_weights(model, {**model.state_dict(), "head.weight": torch.zeros(1)}, source="w")


def test_other_shapes_are_reported_with_both(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"1 of another shape \(fc\.bias \[3\] for \[10\]\)"):
        pretrained.load_weights(model, {**model.state_dict(), "fc.bias": torch.zeros(3)}, source="w")


def test_a_long_report_is_cut_to_one_line(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"missing \(.*, \.\.\.\)") as caught:
        pretrained.load_weights(model, resx.build("densenet121", seed=0).state_dict(), source="w")

    assert "\n" not in str(caught.value)


def test_refused_weights_leave_the_model_as_it_was(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(UsageError):
        pretrained.load_weights(model, {**_fill_with_ones(model), "more": torch.zeros(1)}, source="w")

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_step_counters_may_be_missing(model: nn.Module) -> None:
    state = {name: tensor for name, tensor in _fill_with_ones(model).items() if "num_batches" not in name}

    pretrained.load_weights(model, state, source="w")

    assert (model.fc.bias == 1).all()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 200_000])
def test_a_truncated_file_is_one_line_of_error(tmp_path: Path, model: nn.Module, suffix: str, kept: int) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(UsageError, match="truncated") as caught:
        pretrained.read_weights(path)

    assert "\n" not in str(caught.value)


class _Attack:
    """Pickled, it would write a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.target, "owned")


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    for name, dump in (("plain", pickle.dump), ("torch", torch.save)):
        path = tmp_path / f"{name}.pth"
        with path.open("wb") as file:
            dump({"fc.weight": _Attack(tmp_path / "victim")}, file)

        with pytest.raises(UsageError, match="not a plain file of weights") as caught:
            pretrained.read_weights(path)

        assert "\n" not in str(caught.value)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"model": {"a": 1}}])
def test_a_file_without_a_state_dict_says_so(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")

    with pytest.raises(UsageError, match="holds no state dict"):
        pretrained.read_weights(tmp_path / "x.pth")


def test_a_missing_file_says_which_kinds_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; give a \.safetensors, \.pth or \.pt"):
        pretrained.read_weights(tmp_path / "none.pth")


def test_the_old_names_of_the_published_densenets_load(tmp_path: Path) -> None:
    model = resx.build("densenet121", seed=0)
    old = {
        name.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): tensor
        for name, tensor in model.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")

    assert list(pretrained.read_weights(tmp_path / "old.pth")) == list(model.state_dict())


def test_a_download_is_checked_cached_and_loads(tmp_path: Path, cache: Path, model: nn.Module) -> None:
    url, name = _published(tmp_path / "host", model)

    path = pretrained.fetch(url, name)
    (tmp_path / "host" / name).unlink()
    again = pretrained.fetch(url, name)

    assert path == again == cache / name
    pretrained.load_weights(resx.build("resnet20", seed=1), pretrained.read_weights(path), source=name)


def test_a_download_with_another_hash_is_refused_and_not_kept(tmp_path: Path, cache: Path, model: nn.Module) -> None:
    url, _ = _published(tmp_path / "host", model)

    with pytest.raises(UsageError, match="invalid hash value") as caught:
        pretrained.fetch(url, "model-00000000.pth")

    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_wrong_file_put_into_the_cache_by_hand_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "model-12345678.pth").write_bytes(b"something else")

    with pytest.raises(UsageError, match="SHA-256 does not begin with 12345678; delete it"):
        pretrained.fetch("file:///nowhere", "model-12345678.pth")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/model.pth", "file:///nowhere/model.pth"])
def test_an_unreachable_host_says_where_to_put_the_file(cache: Path, url: str) -> None:
    with pytest.raises(MissingCapability, match=f"put it at {cache}/model-12345678.pth") as caught:
        pretrained.fetch(url, "model-12345678.pth")

    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_published_weights_bring_labels_and_image_format() -> None:
    published = pretrained.published_weights("resnet50")
    spec = pretrained.with_published(VARIANTS["resnet50"].spec, published)

    assert published.url == torchvision.models.ResNet50_Weights.DEFAULT.url
    assert published.file_name.startswith("resnet50-")
    assert len(spec.labels) == 1000
    assert (spec.labels[0], spec.resize, spec.image_size) == ("tench", 232, 224)


def test_a_variant_without_published_weights_says_so() -> None:
    with pytest.raises(UsageError, match="resnet20: no published ImageNet weights"):
        pretrained.published_weights("resnet20")


def test_lively_changes_what_a_model_computes(model: nn.Module, lively: Callable[[nn.Module], nn.Module]) -> None:
    image = torch.ones(1, 3, 32, 32)
    before = model.eval()(image)

    assert not torch.allclose(lively(model)(image), before)
