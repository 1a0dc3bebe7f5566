"""A network's weights are found in a file under any prefix and in any envelope, and the right ones of several."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import resx
from resx.errors import UsageError
from resx.zoo.building import build_from_spec
from resx.zoo.weights import pretrained
from tests.support.tiny_models import tiny_spec

State = dict[str, Tensor]


def tiny(seed: int, classes: int = 10) -> nn.Module:
    return build_from_spec(tiny_spec(classes=classes), seed=seed)


@pytest.fixture(scope="module")
def clean() -> State:
    return tiny(1).state_dict()


@pytest.fixture(scope="module")
def other() -> State:
    return tiny(2).state_dict()


def load(path: Path, content: object, *, entry: str = "", classes: int = 10) -> tuple[State, str]:
    """Save, load into a network of other weights, and return its state dict and what was said, without the path."""
    torch.save(content, path)
    return load_saved(path, entry=entry, classes=classes)


def load_saved(path: Path, *, entry: str = "", classes: int = 10) -> tuple[State, str]:
    model = tiny(9, classes)
    said = pretrained.load_file(model, path, network="tiny", set_classes="--set classes={}", entry=entry)
    return model.state_dict(), said.removeprefix(str(path))


def are_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


PREFIXES = [
    "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.", "network.", "backbone.",
    "encoder.", "student.", "teacher.", "ema_model.", "resnet.", "0.", "features_extractor.", "layer1.", "fc.",
    "algorithm.0._orig_mod.featurizer.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_taken_away_and_nothing_needs_saying(tmp_path: Path, clean: State, prefix: str) -> None:
    loaded, said = load(tmp_path / "w.pth", under(prefix, clean))
    assert are_same(loaded, clean)
    assert said == ""
    save_file(under(prefix, clean), tmp_path / "w.safetensors")
    assert are_same(load_saved(tmp_path / "w.safetensors")[0], clean)


def test_a_prefix_of_the_network_that_the_file_lacks_is_no_hindrance(tmp_path: Path, clean: State) -> None:
    torch.save(under("module.", clean), tmp_path / "w.pth")
    wrapped = nn.Sequential()
    wrapped.add_module("net", tiny(9))
    pretrained.load_file(wrapped, tmp_path / "w.pth", network="nets:make", set_classes="")
    assert are_same(wrapped.net.state_dict(), clean)


ENVELOPES = {
    "state_dict", "model", "model_state_dict", "net", "params", "weights", "model_ema", "state_dict_ema",
    "ema_state_dict", "ema", "module", "ema.module", "model.state_dict", "0", "anything",
}  # fmt: skip


@pytest.mark.parametrize("envelope", sorted(ENVELOPES))
def test_any_envelope_is_opened_and_named(tmp_path: Path, clean: State, envelope: str) -> None:
    content: object = under("module.", clean)
    for key in reversed(envelope.split(".")):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    loaded, said = load(tmp_path / "w.pth", content)
    assert are_same(loaded, clean)
    assert said == f" (entry {envelope})"


@pytest.mark.parametrize(
    ("plain", "average", "entry"),
    [
        ("model", "model_ema", "model_ema"), ("state_dict", "state_dict_ema", "state_dict_ema"),
        ("model", "ema.module", "ema.module"), ("params", "params_ema", "params_ema"), ("net", "netEMA", "netEMA"),
        ("model", "ModelEma", "ModelEma"),
    ],
)  # fmt: skip
def test_the_moving_average_goes_first_and_it_is_said(
    tmp_path: Path, clean: State, other: State, plain: str, average: str, entry: str
) -> None:
    outer, _, inner = average.partition(".")
    content = {plain: other, outer: {inner: under("module.", clean)} if inner else under("module.", clean)}
    loaded, said = load(tmp_path / "w.pth", content)
    assert are_same(loaded, clean)
    assert said == f" (entry {entry}), EMA preferred to {plain}"
    chosen, said = load(tmp_path / "w.pth", content, entry=plain)
    assert are_same(chosen, other)
    assert said == f" (entry {plain})"


def test_the_moving_average_is_named_even_where_it_is_equal(tmp_path: Path, clean: State) -> None:
    assert "(entry model_ema)" in load(tmp_path / "w.pth", {"model": clean, "model_ema": under("module.", clean)})[1]


def test_a_moving_average_without_statistics_is_not_taken_and_it_is_said(
    tmp_path: Path, clean: State, other: State
) -> None:
    average = {name: tensor for name, tensor in other.items() if "running" not in name}
    loaded, said = load(tmp_path / "w.pth", {"model": clean, "ema": average})
    assert are_same(loaded, clean)
    assert said == " (entry model), not ema, an EMA of fewer tensors"


def test_an_entry_of_a_file_without_entries_is_refused(tmp_path: Path, clean: State) -> None:
    with pytest.raises(UsageError, match="holds one network and no entries"):
        load(tmp_path / "w.pth", clean, entry="model")
    with pytest.raises(UsageError, match="holds net; give one of them"):
        load(tmp_path / "w.pth", {"net": clean}, entry="model")


@pytest.mark.parametrize("flat", [False, True])
def test_two_networks_of_equal_right_are_refused_until_one_is_named(
    tmp_path: Path, clean: State, other: State, flat: bool
) -> None:
    flat_content = under("student.", clean) | under("teacher.", other)
    content: object = flat_content if flat else {"student": clean, "teacher": other}
    with pytest.raises(UsageError, match=r"holds 2 networks that fit, student, teacher; choose one: --weights-entry"):
        load(tmp_path / "w.pth", content)
    assert are_same(load(tmp_path / "w.pth", content, entry="teacher")[0], other)
    with pytest.raises(UsageError, match=r"--weights-entry tutor: .* holds student, teacher; give one of them"):
        load(tmp_path / "w.pth", content, entry="tutor")
    assert are_same(load(tmp_path / "w.pth", {"state_dict": flat_content}, entry="student")[0], clean)


def test_a_network_beside_its_average_is_named_by_a_dot(tmp_path: Path, clean: State, other: State) -> None:
    content = other | under("ema.", clean)
    assert load(tmp_path / "w.pth", content)[1] == " (entry ema), EMA preferred to ."
    assert are_same(load(tmp_path / "w.pth", content, entry=".")[0], other)


def test_the_same_network_twice_is_one(tmp_path: Path, clean: State) -> None:
    content = under("model.", clean) | under("attacker.model.", {name: value.clone() for name, value in clean.items()})
    assert are_same(load(tmp_path / "w.pth", content)[0], clean)


def test_a_deeper_network_with_all_the_names_is_not_preferred(tmp_path: Path, clean: State) -> None:
    deep = resx.build("resnet20", seed=0).state_dict()
    content = {"large": deep, "small": clean}
    assert load(tmp_path / "w.pth", content)[1] == " (entry small)"
    with pytest.raises(UsageError, match=r"another architecture under the prefix large\.: .*unknown"):
        load(tmp_path / "w.pth", content, entry="large")


EXTRA: dict[str, Callable[[State], State]] = {
    "": lambda state: under("module.", state) | {"n_averaged": torch.tensor(3)},
    ", left out criterion.weight": lambda state: state | {"criterion.weight": torch.ones(10)},
    ", left out model.loss_fn.scale": lambda state: under("model.", state) | {"model.loss_fn.scale": torch.ones(1)},
    ", left out normalizer.mean": lambda state: under("model.", state) | {"normalizer.mean": torch.ones(3)},
}


@pytest.mark.parametrize("said", list(EXTRA))
def test_what_is_no_part_of_the_network_is_left_out_and_said(tmp_path: Path, clean: State, said: str) -> None:
    loaded, found = load(tmp_path / "w.pth", EXTRA[said](clean))
    assert are_same(loaded, clean)
    assert found == said


def test_a_layer_more_under_the_prefix_is_another_architecture(tmp_path: Path, clean: State) -> None:
    with pytest.raises(UsageError, match=r"another architecture under the prefix net\.: 1 unknown \(layer4\.weight\)"):
        load(tmp_path / "w.pth", under("net.", clean | {"layer4.weight": torch.ones(3)}))


def renamed(state: Mapping[str, Tensor], head: str, prefix: str = "") -> State:
    return {(name.replace("fc.", head, 1) if name.startswith("fc.") else prefix + name): t for name, t in state.items()}


@pytest.mark.parametrize(
    ("head", "prefix", "said"),
    [("fc.1.", "", "fc.1"), ("model.head.fc.", "model.", "head.fc"), ("head.", "net.", "head")],
)
def test_a_last_layer_of_another_name_is_taken_and_said(
    tmp_path: Path, clean: State, head: str, prefix: str, said: str
) -> None:
    loaded, found = load(tmp_path / "w.pth", renamed(clean, head, prefix))
    assert are_same(loaded, clean)
    assert found == f", last layer from {said}"


def test_a_head_of_two_layers_is_another_architecture(tmp_path: Path, clean: State) -> None:
    more = {"fc.0.weight": torch.ones(32, 32), "fc.0.bias": torch.ones(32)}
    with pytest.raises(UsageError, match=r"2 missing \(fc\.weight, fc\.bias\); 4 unknown"):
        load(tmp_path / "w.pth", renamed(clean, "fc.2.") | more)


@pytest.mark.parametrize("head", ["fc.", "fc.1.", "head.fc."])
def test_another_number_of_classes_is_said_with_the_option(tmp_path: Path, head: str) -> None:
    state = under("module.", renamed(tiny(1, classes=14).state_dict(), head))
    with pytest.raises(UsageError, match=r"holds 14 classes, tiny has 10: --set classes=14$"):
        load(tmp_path / "w.pth", state)
    assert are_same(load(tmp_path / "w.pth", state, classes=14)[0], tiny(1, classes=14).state_dict())


def test_one_output_is_no_classifier(tmp_path: Path, clean: State) -> None:
    with pytest.raises(UsageError, match="its last layer has 1 output; resx needs 2 classes or more"):
        load(tmp_path / "w.pth", clean | {"fc.weight": torch.ones(1, 32), "fc.bias": torch.ones(1)})


@pytest.mark.parametrize("prefix", ["module.", "module.densenet121."])
def test_old_densenet_names_and_a_prefix_go_together(tmp_path: Path, prefix: str) -> None:
    model = resx.build("densenet_bc_100_12", seed=0)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", n): t for n, t in model.state_dict().items()}
    assert any(".norm.1." in name for name in old)
    torch.save({"state_dict": under(prefix, old)}, tmp_path / "w.pth")
    loaded = resx.build("densenet_bc_100_12", seed=1)
    pretrained.load_file(loaded, tmp_path / "w.pth", network="densenet", set_classes="")
    assert are_same(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_converted_and_it_is_said(
    tmp_path: Path, clean: State, dtype: torch.dtype
) -> None:
    loaded, said = load(tmp_path / "w.pth", {n: t.to(dtype) if t.is_floating_point() else t for n, t in clean.items()})
    assert said == f", {str(dtype)[6:]} converted to float32"
    assert torch.equal(loaded["fc.weight"], clean["fc.weight"].to(dtype).float())


UNUSABLE: dict[str, Callable[[Tensor], Tensor]] = {
    r"int8 \(quantized or complex\)": lambda tensor: tensor.to(torch.int8),
    r"float8_e4m3fn \(quantized": lambda tensor: tensor.to(torch.float8_e4m3fn),
    r"qint8 \(quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    r"complex64 \(": lambda tensor: tensor.to(torch.complex64),
    r"without values \(on the meta device\)": lambda tensor: tensor.to("meta"),
    r"sparse": lambda tensor: tensor.to_sparse(),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("what", list(UNUSABLE))
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, clean: State, what: str) -> None:
    with pytest.raises(UsageError, match=rf"fc\.weight is {what}.*; give the weights in fp32, fp16 or bf16$"):
        load(tmp_path / "w.pth", clean | {"fc.weight": UNUSABLE[what](clean["fc.weight"])})


def test_an_optimizer_alone_holds_no_network(tmp_path: Path) -> None:
    optimizer = {"state": {i: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)} for i in range(4)}}
    for content in (optimizer, {"optimizer": optimizer}):
        with pytest.raises(UsageError, match=r"contains no network weights \(optimizer state: exp_avg, exp_avg_sq\)"):
            load(tmp_path / "w.pth", content)


def test_names_are_shown_on_one_line_without_control_characters(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "w.pth", {"\x1b[31mconv1\nx.weight": torch.ones(1), "\x1b]0;t\a.bias": torch.ones(1)})
    assert str(caught.value).isprintable()
