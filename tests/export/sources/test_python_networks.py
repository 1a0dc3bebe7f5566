import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_sample_image

from resx.card.kinds import Precision
from resx.cli.views import version_card
from resx.data.image_geometry import pixels
from resx.errors import ExportError, UsageError
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources.source import load_source
from resx.files.staging import sha256_of
from resx.zoo.building import build_from_spec
from tests.support.command import Finished

MODULE = """
from collections import namedtuple
from dataclasses import dataclass

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

def needy(width):
    return small()

def scripted():
    return torch.jit.script(small())

def traced_inside():
    return nn.Sequential(torch.jit.trace(small().eval(), torch.zeros(1, 3, 20, 20)), nn.Linear(5, 5))

def a_class():
    return nn.Linear

def meta():
    with torch.device("meta"):
        return small()

def quits():
    raise SystemExit("bye")

ready = small()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = small()

    def forward(self, x):
        return self.features(x)

class If(Net):
    def forward(self, x):
        return self.features(x) if x.shape[2] > 4 else self.features(2 * x)

class Assert(Net):
    def forward(self, x):
        assert x.shape[1] == 3, "RGB only"
        return self.features(x)

class For(Net):
    def forward(self, x):
        grey = sum(x[:, channel : channel + 1] for channel in range(x.shape[1]))
        return self.features(grey.expand(-1, 3, -1, -1))

class Arange(Net):
    def forward(self, x):
        assert x.ndim == 4
        return self.features(x) @ torch.arange(25.0).view(5, 5)

class Values(Net):
    def forward(self, x):
        return self.features(x) if x.sum() > 0 else self.features(2 * x)

class Alone(Net):
    def forward(self, x):
        return self.features(x) if x.shape[0] > 1 else self.features(2 * x)

class Crowd(Net):
    def forward(self, x):
        return self.features(x) / (2 if x.shape[0] > 4 else 1)

class Pair(Net):
    def forward(self, x):
        return self.features(x.view(2, 3, 20, 20))

class Keyword(Net):
    def forward(self, *, pixel_values):
        return self.features(pixel_values)

class Dict(Net):
    def forward(self, x):
        return {"features": x, "logits": self.features(x)}

Answer = namedtuple("Answer", "logits auxiliary")

class Named(Net):
    def forward(self, x):
        return Answer(self.features(x), None)

@dataclass
class Output:
    logits: torch.Tensor

class Data(Net):
    def forward(self, x):
        return Output(logits=self.features(x))

class Others(Net):
    def forward(self, x):
        return {"out": self.features(x), "aux": x}

class Tuple(Net):
    def forward(self, x):
        return self.features(x), x

def talks():
    print("building")
    return small()

def parallel():
    return nn.DataParallel(small())

def compiled():
    return torch.compile(small())

def compiled_and_parallel():
    return torch.compile(nn.DataParallel(torch.compile(small())))

def averaged():
    return torch.optim.swa_utils.AveragedModel(small())

def compiled_inside():
    network = small()
    network[0] = torch.compile(network[0])
    return network

def compiled_in_place():
    network = small()
    network.compile()
    return network

def half():
    return small().half()
"""


@pytest.mark.parametrize("fp16", [False, True])
def test_a_function_of_the_users_is_exported_and_verified(
    resx: Callable[..., Finished], tmp_path: Path, fp16: bool
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    done = resx("export", "mine:small", "--image-size", "20", "--json", *(["--fp16"] if fp16 else []))
    assert done.code == 0, done.err
    assert (done.json["name"], done.json["verified"]) == ("small", True)
    assert "[3, 20, 20]" in (tmp_path / "model_repository/small/config.pbtxt").read_text()
    info = resx("info", "small", "--json").json["card"]["source"]
    assert (info["kind"], info["spec"]["architecture"]) == ("foreign", {"family": "foreign", "source": "mine:small"})


@pytest.mark.filterwarnings("ignore:`torch.jit")  # TorchScript is deprecated
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mine:nothing", "has no attribute 'nothing'"),
        ("mine:number", "returned int"),
        ("mine:broken", "calling it failed: RuntimeError: no weights here"),
        ("mine:images", "resx serves classifiers"),
        ("mine:needy", "missing a required argument: 'width'"),
        ("mine:scripted", "is TorchScript"),
        ("mine:traced_inside", "return the module that was scripted or traced"),
        ("mine:a_class", "returned the class Linear"),
        ("mine:meta", "weights cannot be converted to fp32 on the CPU"),
        ("mine:quits", "calling it failed: SystemExit: bye"),
        ("mine:ready", "is a module already"),
        ("mine:torch", "is module, not a function"),
        ("mine:Alone", "3 copies of it get different answers"),
        ("mine:Crowd", "9 copies of it get different answers"),
        ("mine:Pair", "fails on a batch of 1"),
        ("mine:Keyword", "fails on [2, 3, 20, 20] (TypeError: Keyword.forward() takes 1 positional argument"),
        ("mine:Others", "gives dict (out, aux); return only the logits"),
        ("mine:Tuple", "gives tuple of 2; return only the logits"),
        ("syntax:f", "importing syntax failed: SyntaxError: "),
        ("raising:f", "importing raising failed: KeyError: "),
        ("quitting:f", "importing quitting failed: SystemExit: 3"),
        ("nosuchmodule:x", "No module named 'nosuchmodule'"),
        ("torchvision:alexnt", "did you mean alexnet"),
        ("torchvision:fcn_resnet50", "no such classifier"),
        ("../x:y", "give torchvision:NAME, timm:NAME, hf:ORG/NAME, or module:function"),
        ("mine:small()", "give torchvision:NAME, timm:NAME, hf:ORG/NAME, or module:function"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "raising.py").write_text("{}['two\\nlines']\n")
    (tmp_path / "quitting.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    size = None if source.startswith("torchvision") else 20
    with pytest.raises(UsageError) as caught:
        load_source(source, weights="none", seed=0, image_size=size)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the module `mine` in it."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    "name",
    ["parallel", "compiled", "compiled_and_parallel", "averaged", "compiled_inside", "compiled_in_place", "half"],
)
def test_what_only_wraps_a_network_is_taken_off(mine: Path, name: str) -> None:
    plain = load_source("mine:small", weights="none", seed=0, image_size=20)
    wrapped = load_source(f"mine:{name}", weights="none", seed=0, image_size=20)
    assert list(wrapped.model.state_dict()) == list(plain.model.state_dict())
    assert all(part._compiled_call_impl is None for part in wrapped.model.modules())
    assert wrapped.not_fused() == ""
    assert wrapped.operators() == plain.operators()
    if name != "half":
        assert wrapped.description.weights_sha256 == plain.description.weights_sha256


@pytest.mark.parametrize("name", ["Dict", "Named", "Data"])
def test_of_an_answer_with_more_in_it_the_logits_are_served(mine: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 20), dtype=np.uint8)
    plain = load_source("mine:Net", weights="none", seed=0, image_size=20)
    found = load_source(f"mine:{name}", weights="none", seed=0, image_size=20)
    assert (found.logits(images) == plain.logits(images)).all()
    torch.save(plain.model.state_dict(), mine / "w.pth")
    again = load_source(f"mine:{name}", weights="w.pth", seed=1, image_size=20)
    assert (again.logits(images) == plain.logits(images)).all(), "weights have the names that the user's network has"


@pytest.mark.parametrize(
    ("name", "precision", "reason"),
    [("If", "fp32", "control flow"), ("Assert", "fp16", "control flow"), ("For", "fp32", "as an integer")],
)
def test_code_that_looks_at_shapes_is_exported_unfused_and_says_so(
    mine: Path, name: str, precision: Precision, reason: str
) -> None:
    source = load_source(f"mine:{name}", weights="none", seed=0, image_size=20)
    options = ExportOptions(precision=precision, max_batch_size=3)
    card = export_version(source, options, mine, name=name, command="a test")
    assert card.verified
    assert reason in card.not_fused
    assert (card.operators_before, card.operators_after["Conv"]) == ({}, 1)
    shown = Console(file=io.StringIO(), width=200)
    version_card.proof(shown, card)
    text = shown.file.getvalue()
    assert f"not fused before export: {card.not_fused}" in text
    assert "0 >" not in text, "operators that nobody counted are not told as none"


@pytest.mark.parametrize(
    ("name", "precision", "words"),
    [("Values", "fp32", "use torch.where"), ("Arange", "fp16", "create them with dtype=x.dtype, or export fp32")],
)
def test_what_torch_cannot_export_is_one_line_with_the_cause(
    mine: Path, capfd: pytest.CaptureFixture[str], name: str, precision: Precision, words: str
) -> None:
    source = load_source(f"mine:{name}", weights="none", seed=0, image_size=20)
    capfd.readouterr()
    with pytest.raises(ExportError) as caught:
        source.write(mine / "model.onnx", precision, "uint8", "cpu")
    assert words in str(caught.value)
    assert not {"\n", "\x1b"} & set(str(caught.value))
    assert capfd.readouterr() == ("", ""), "torch's logs and graphs stay off the terminal"
    assert not (mine / "model.onnx").exists()


def test_what_a_function_prints_is_no_part_of_the_commands_answer(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_source("mine:talks", weights="none", seed=0, image_size=20)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "building\n")


def publish(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str] = str) -> Path:
    """Put random weights of torchvision's network where its published ones are said to be; return the file."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    state = torchvision.models.get_model(name, weights=None, **options).state_dict()
    for key in list(state):
        state[change(key)] = state.pop(key)
    if name in ("densenet121", "vit_b_16"):  # files older than counters of steps, and without versions of the format
        state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(state, folder / "w.pth")
    file = (folder / "w.pth").rename(folder / f"{name}-{sha256_of(folder / 'w.pth')[:8]}.pth")
    monkeypatch.setattr(weights.value, "url", file.as_uri())
    monkeypatch.setenv("RESX_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    return file


def old_name(key: str) -> str:
    """Return what published files of DenseNet and ViT still call a weight."""
    key = re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key)
    return re.sub(r"mlp\.([03])\.", lambda found: f"mlp.linear_{1 + int(found[1]) // 3}.", key)


@pytest.mark.parametrize(
    "name",
    ["googlenet", "inception_v3", "mnasnet0_5", "densenet121", pytest.param("vit_b_16", marks=pytest.mark.slow)],
)
def test_published_weights_give_torchvisions_own_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(name, tmp_path, monkeypatch, old_name)
    entry = torchvision.models.get_model_weights(name).DEFAULT
    theirs = torchvision.models.get_model(name, weights=entry).eval()
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    with torch.inference_mode():
        expected = theirs(entry.transforms()(photograph)[None]).numpy()

    for weights in ("imagenet", str(file)):
        source = load_source(f"torchvision:{name}", weights=weights, seed=0)
        spec = source.description.network
        images = pixels(
            photograph,
            height=spec.image_size,
            width=spec.image_size,
            resize=spec.resize,
            interpolation=spec.interpolation,
        )[None]
        assert np.abs(source.logits(images) - expected).max() <= 1e-5 * np.abs(expected).max()
        assert spec.labels == tuple(entry.meta["categories"])
        assert list(source.model.state_dict()) == list(theirs.state_dict())


def test_weights_of_the_users_own_say_that_the_input_is_not_transformed(tmp_path: Path) -> None:
    for auxiliary in (True, False):
        model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=auxiliary)
        torch.save(model.state_dict(), tmp_path / "w.pth")
        source = load_source("torchvision:googlenet", weights=str(tmp_path / "w.pth"), seed=0)
        assert not source.model.transform_input
        assert source.description.weights == f"{tmp_path / 'w.pth'} (built with transform_input=False)"


def test_a_file_that_is_not_the_published_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish("squeezenet1_1", tmp_path, monkeypatch, lambda key: f"x.{key}")
    with pytest.raises(
        UsageError, match=r"not the weights of torchvision:squeezenet1_1 \(Error.*\); delete it"
    ) as caught:
        load_source("torchvision:squeezenet1_1", weights="imagenet", seed=0)
    assert "\n" not in str(caught.value)
    assert file.is_file()


def test_torchvisions_networks_have_its_image_format_and_a_seed() -> None:
    first, second, other = (load_source("torchvision:squeezenet1_1", weights="none", seed=seed) for seed in (0, 0, 1))
    assert first.description.weights_sha256 == second.description.weights_sha256
    assert first.description.weights_sha256 != other.description.weights_sha256
    spec = first.description.spec
    assert (spec.classes, spec.image_size, spec.resize) == (1000, 224, 256)


def test_weights_for_a_foreign_network_come_from_a_file(tmp_path: Path) -> None:
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
    with pytest.raises(
        UsageError, match=("holds 14 classes, nets:make has 10: let nets:make return a network of 14 cl")
    ):
        load_source("nets:make", weights="w.pth", seed=0)
    with pytest.raises(UsageError, match=r"--set classes=14: nets:make builds its own network"):
        load_source("nets:make", weights="w.pth", seed=0, settings=["classes=14"])


def test_an_image_size_is_for_foreign_networks_only() -> None:
    with pytest.raises(UsageError, match="has its own image size"):
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
    source = load_source(f"torchvision:{name}", weights="none", seed=0)
    card = export_version(source, ExportOptions(max_batch_size=2), tmp_path, name=name, command="a test")
    assert card.verified
