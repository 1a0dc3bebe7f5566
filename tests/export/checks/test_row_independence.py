"""Models whose answer to an image depends on other images, or on chance, and models that only look like it."""

import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from torch import Tensor, nn

from resx.card.card import Card
from resx.card.signature import signature_of
from resx.errors import ParityError
from resx.export.checks.row_independence import Subject, require_own_answers, trial_rows
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.sources.source import load_source
from tests.support.tiny_models import tiny_spec

node = helper.make_node


def graph(
    *front: NodeProto, behind: Sequence[NodeProto] = (), batch: int | str = "n", **constants: np.ndarray
) -> ModelProto:
    """A linear layer over what `front` makes (`z`) of an input `x` [n, 3, 8, 8]; `behind` makes `p` of its `y`."""
    weight = np.random.default_rng(0).standard_normal((10, 192)).astype(np.float32)
    nodes = [
        *front,
        node("Flatten", ["z" if front else "x"], ["f"]),
        node("Gemm", ["f", "w"], ["y"], transB=1),
        *behind,
    ]
    output = helper.make_tensor_value_info("p" if behind else "y", TensorProto.FLOAT, [batch, 10])
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [output],
        [numpy_helper.from_array(value, name) for name, value in {"w": weight, **constants}.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


HALF = np.full((), 0.5, np.float32)
DEPENDENT = {
    "a mean over the batch": (
        graph(node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1, name="mean"), node("Sub", ["x", "m"], ["z"])),
        "ReduceMean (node mean)",
    ),
    "softmax over the batch": (
        graph(behind=[node("Softmax", ["y"], ["p"], axis=0, name="soft")]),
        "Softmax (node soft)",
    ),
    "a running sum over the batch": (
        graph(node("CumSum", ["x", "axis"], ["z"], name="sum"), axis=np.zeros((), np.int64)),
        "CumSum (node sum)",
    ),
    "a row's place in the batch": (
        graph(
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Range", ["zero", "n", "one"], ["r"], name="range"),
            node("Cast", ["r"], ["c"], to=TensorProto.FLOAT),
            node("Reshape", ["c", "column"], ["k"]),
            node("Add", ["x", "k"], ["z"], name="add"),
            zero=np.zeros((), np.int64),
            one=np.ones((), np.int64),
            column=np.array([-1, 1, 1, 1]),
        ),
        "(node ",
    ),
    "large batches only": (
        graph(
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Greater", ["n", "five"], ["large"]),
            node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            node("Sub", ["x", "m"], ["d"]),
            node("Where", ["large", "d", "x"], ["z"]),
            zero=np.zeros((), np.int64),
            five=np.array(5),
        ),
        "ReduceMean (node m)",
    ),
    "a place in a fixed batch": (
        graph(
            node("Add", ["x", "ramp"], ["z"], name="ramp"),
            batch=4,
            ramp=np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1),
        ),
        "Add (node ramp)",
    ),
    "a fixed batch": (
        graph(node("ReduceMax", ["x"], ["m"], axes=[0], name="max"), node("Sub", ["x", "m"], ["z"]), batch=4),
        "ReduceMax (node max)",
    ),
}
RANDOM = {
    "dropout": (
        graph(node("Dropout", ["x", "half", "on"], ["z"], name="drop"), half=HALF, on=np.array(True)),
        "Dropout (node drop)",
    ),
    "seeded dropout": (
        graph(node("Dropout", ["x", "half", "on"], ["z"], seed=1, name="drop"), half=HALF, on=np.array(True)),
        "Dropout (node drop)",
    ),
    "seeded noise": (
        graph(node("RandomNormalLike", ["x"], ["r"], seed=3.0, name="noise"), node("Add", ["x", "r"], ["z"])),
        "RandomNormalLike (node noise)",
    ),
    "seeded coins": (
        graph(
            node("Bernoulli", ["chance"], ["b"], seed=2.0, name="coin"),
            node("Mul", ["x", "b"], ["z"]),
            chance=np.full((1, 3, 8, 8), 0.5, np.float32),
        ),
        "Bernoulli (node coin)",
    ),
    "a layer that is dropped once in a million times": (
        graph(
            node("Bernoulli", ["chance"], ["b"], name="rare"),
            node("Mul", ["x", "b"], ["z"]),
            chance=np.full((1, 1, 1, 1), 1 - 1e-6, np.float32),
        ),
        "Bernoulli (node rare)",
    ),
    "noise in a fixed batch of 1": (
        graph(node("RandomUniformLike", ["x"], ["r"], name="u"), node("Add", ["x", "r"], ["z"]), batch=1),
        "RandomUniformLike (node u)",
    ),
}


ROWS_CHANGED = {
    "rows without bright pixels, which no photograph lacks": (
        graph(
            behind=[
                node("ReduceMax", ["f"], ["m"], axes=[1], keepdims=0),
                node("Less", ["m", "limit"], ["c"]),
                node("Compress", ["y", "c"], ["p"], axis=0, name="drop"),
            ],
            limit=np.array(3.5, np.float32),
        ),
        "Compress (node drop)",
    ),
    "rows that are numbers, by their indices": (
        graph(
            behind=[
                node("Gather", ["y", "zero"], ["s"], axis=1),
                node("IsNaN", ["s"], ["nan"]),
                node("Not", ["nan"], ["number"]),
                node("NonZero", ["number"], ["where"]),
                node("Squeeze", ["where", "zeroth"], ["index"]),
                node("Gather", ["y", "index"], ["p"], axis=0, name="pick"),
            ],
            zero=np.array(0),
            zeroth=np.array([0]),
        ),
        "Gather (node pick)",
    ),
    "a row more where all is black": (
        graph(
            behind=[
                node("ReduceMax", ["f"], ["m"], keepdims=0),
                node("Equal", ["m", "nothing"], ["black"]),
                node("Cast", ["black"], ["more"], to=TensorProto.INT64),
                node("Unsqueeze", ["more", "zeroth"], ["end"]),
                node("Slice", ["y", "zeroth", "end"], ["again"]),
                node("Concat", ["y", "again"], ["p"], axis=0, name="join"),
            ],
            nothing=np.zeros((), np.float32),
            zeroth=np.array([0]),
        ),
        "Concat (node join)",
    ),
    "one row for all": (
        graph(behind=[node("ReduceMean", ["y"], ["p"], axes=[0], keepdims=1, name="mean")]),
        "ReduceMean (node mean)",
    ),
}


def export_file(model: ModelProto | Path, folder: Path, **options: object) -> Card:
    path = model if isinstance(model, Path) else folder / "theirs.onnx"
    if not isinstance(model, Path):
        path.write_bytes(model.SerializeToString())
    source = load_source(str(path), weights="none", seed=0)
    made = folder / "version"
    made.mkdir()
    return export_version(source, ExportOptions(input_type="float32", **options), made, name="m", command="x")  # type: ignore[arg-type]


def export_network(
    network: Callable[[], nn.Module], folder: Path, monkeypatch: pytest.MonkeyPatch, **options: object
) -> Card:
    module = types.ModuleType("their_networks")
    module.make = network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_networks", module)
    source = load_source("their_networks:make", weights="none", seed=0, image_size=8)
    return export_version(source, ExportOptions(**options), folder, name="m", command="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_file_whose_answers_depend_on_the_company_is_refused_and_the_node_named(name: str, tmp_path: Path) -> None:
    model, culprit = DEPENDENT[name]
    with pytest.raises(ParityError) as caught:
        export_file(model, tmp_path)
    assert "depends on the other images in its batch" in str(caught.value)
    assert culprit in str(caught.value)
    assert ("--max-batch 1" in str(caught.value)) == ("fixed batch" not in name)


@pytest.mark.parametrize("name", ROWS_CHANGED)
@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_gives_more_or_fewer_rows_is_refused_and_the_node_named(
    name: str, verify: bool, tmp_path: Path
) -> None:
    model, culprit = ROWS_CHANGED[name]
    with pytest.raises(ParityError) as caught:
        export_file(model, tmp_path, verify=verify)
    assert "returns a different number of rows than its batch" in str(caught.value)
    assert culprit in str(caught.value)


def test_a_batch_that_is_reshaped_on_the_way_passes(tmp_path: Path) -> None:
    front = [node("Reshape", ["x", "flat"], ["r"]), node("Relu", ["r"], ["u"]), node("Reshape", ["u", "back"], ["z"])]
    assert export_file(graph(*front, flat=np.array([-1, 8]), back=np.array([-1, 3, 8, 8])), tmp_path).verified


def test_the_refusal_does_not_depend_on_verification(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="depends on the other images"):
        export_file(DEPENDENT["a mean over the batch"][0], tmp_path, verify=False)


def test_a_dynamically_quantised_file_is_refused_batched_and_published_for_single_images(tmp_path: Path) -> None:
    """Its activations' scale is that of the whole batch: images beside a bright one lose their bits."""
    onnx.save(graph(), tmp_path / "plain.onnx")
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "dynamic.onnx")
    with pytest.raises(ParityError, match=r"DynamicQuantizeLinear .*--max-batch 1"):
        export_file(tmp_path / "dynamic.onnx", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    card = export_file(tmp_path / "dynamic.onnx", other, max_batch_size=1)
    assert (card.max_batch_size, card.canary.num_images) == (1, 1)


def test_a_batch_norm_in_training_mode_is_refused(tmp_path: Path) -> None:
    """onnxruntime also moves its running statistics, so that it answers differently each time."""
    norm = node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["z", "m", "v"], training_mode=1)
    with pytest.raises(ParityError, match=r"depends on the other images|its answers are random"):
        export_file(graph(norm, one=np.ones(3, np.float32), zero=np.zeros(3, np.float32)), tmp_path)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("verify", [True, False])
def test_a_random_file_is_refused_by_name_and_without_advice_on_tolerances(
    name: str, verify: bool, tmp_path: Path
) -> None:
    model, culprit = RANDOM[name]
    with pytest.raises(ParityError) as caught:
        export_file(model, tmp_path, verify=verify)
    assert "its answers are random" in str(caught.value)
    assert culprit in str(caught.value)
    assert "rtol" not in str(caught.value)


@pytest.mark.parametrize(
    "front", [node("Dropout", ["x", "none", "on"], ["z"]), node("Dropout", ["x", "half", "off"], ["z"])]
)
def test_what_only_looks_random_passes(front: NodeProto, tmp_path: Path) -> None:
    constants = {"none": np.zeros((), np.float32), "half": HALF, "on": np.array(True), "off": np.array(False)}
    used = {name: constants[name] for name in front.input if name in constants}
    assert export_file(graph(front, **used), tmp_path).verified


class Live(nn.Module):
    """Dropout that does not ask whether it is training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(F.dropout(x.flatten(1), 0.5))


class Rare(Live):
    """Stochastic depth that does not ask whether it is training, and seldom drops."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(x.flatten(1) * torch.bernoulli(torch.full((1,), 1 - 1e-6)))


class Switched(Live):
    """Dropout in every usual way, switched off by eval() or by its share."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Sequential(nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Dropout1d(0.5))
        self.attention = nn.MultiheadAttention(192, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        rows = self.dropout(x.flatten(1))[:, None, None]
        rows = F.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.0)[:, 0]
        return self.head(F.dropout(self.attention(rows, rows, rows)[0][:, 0], 0.0, training=True))


class Attention(Live):
    """Attention over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        rows = x.flatten(1)
        return self.head(torch.softmax(rows @ rows.T / 192, -1) @ rows)


class Standardised(nn.Module):
    """A batch norm in training mode, of the weights: each image's answer is its own (timm's ResNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        rows = self.weight.reshape(1, 8, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return self.head(F.relu(F.conv2d(x, weight)).mean((2, 3)))


def without_statistics() -> nn.Module:
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize("network", [without_statistics, Attention])
def test_a_network_that_mixes_the_images_of_a_batch_is_refused(
    network: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParityError, match=r"depends on the other images in its batch .* first at \w+ \(node"):
        export_network(network, tmp_path, monkeypatch)
    assert not (tmp_path / "card.json").exists()


def test_the_fp32_form_shows_it_for_fp16_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParityError, match="depends on the other images"):
        export_network(Attention, tmp_path, monkeypatch, precision="fp16")


@pytest.mark.parametrize(("network", "culprit"), [(Live, "dropout in Live"), (Rare, "bernoulli in Rare")])
def test_a_random_operation_is_named_with_its_module(
    network: Callable[[], nn.Module], culprit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParityError, match=f"its answers are random: .*{culprit}"):
        export_network(network, tmp_path, monkeypatch)


def test_dropout_that_is_switched_off_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export_network(Switched, tmp_path, monkeypatch).steps[-1].passed


def test_weight_standardisation_written_as_a_batch_norm_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export_network(Standardised, tmp_path, monkeypatch).steps[-1].passed


def test_answers_that_change_when_they_are_asked_again_are_refused_whatever_the_graph_says() -> None:
    random = np.random.default_rng(0)
    signature = signature_of(tiny_spec(), "uint8")
    subject = Subject(
        ask=lambda given: random.normal(size=(len(given), 10)),
        name="m",
        signature=signature,
        max_batch_size=4,
        bound=1e-4,
    )

    with pytest.raises(ParityError, match="m: its answers are random"):
        require_own_answers(subject, trial_rows(signature, np.zeros((0, 3, 16, 16), np.uint8), seed=0))
