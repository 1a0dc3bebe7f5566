"""A network without some of its blocks."""

import pytest
import torch
from torch import nn

from resx.errors import UsageError
from resx.zoo.building import build_from_spec, count
from resx.zoo.catalog import VARIANTS, variant
from resx.zoo.spec import ModelSpec, survival_probabilities


def test_the_blocks_that_stay_keep_their_names_weights_and_survival() -> None:
    spec = variant("resnet20").spec.with_changes(survival=0.5)
    whole, smaller = build_from_spec(spec, seed=0), build_from_spec(spec.with_changes(dropped_blocks=(2, 9)), seed=0)

    gone = ("layer1.1.", "layer3.2.")
    left = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith(gone)}
    assert list(smaller.state_dict()) == list(left)
    assert all(torch.equal(smaller.state_dict()[name], tensor) for name, tensor in left.items())
    p = survival_probabilities(9, 0.5)
    assert [block.survival for block in smaller.blocks()] == [p[i - 1] for i in (1, 3, 4, 5, 6, 7, 8)]


@pytest.mark.parametrize("name", ["resnet20", "resnext29_8x64d", "preresnet164", "highway19", "resnet110"])
def test_every_removable_block_can_go_and_computes_what_skipping_it_computes(name: str) -> None:
    spec = variant(name).spec
    removable = spec.architecture.removable_blocks
    model = build_from_spec(spec, seed=0).eval()
    smaller = build_from_spec(spec.with_changes(dropped_blocks=removable), seed=0).eval()
    blocks = list(model.blocks())
    for number in removable:
        blocks[number - 1].joined = blocks[number - 1].skipped  # type: ignore[method-assign]
    x = torch.randn(1, 3, 32, 32)

    with torch.inference_mode():
        assert torch.equal(smaller(x), model(x))
    assert len(list(smaller.blocks())) == spec.architecture.num_blocks - len(removable)


def test_only_blocks_that_keep_the_shape_can_go() -> None:
    can_go = {name: len(entry.spec.architecture.removable_blocks) for name, entry in VARIANTS.items()}

    assert can_go["resnet110"] == 52  # of 54; stages two and three begin with a change of shape
    assert can_go["resnet50"] == 12
    assert can_go["highway19"] == 14
    assert can_go["densenet121"] == can_go["vgg16"] == can_go["plain20"] == 0


@pytest.mark.parametrize(
    ("name", "dropped", "words"),
    [
        ("resnet20", (4,), "block 4 cannot be removed: a block that changes the shape"),
        ("resnet20", (10,), "block 10 cannot be removed"),
        ("resnet20", (3, 2), "once, first to last"),
        ("densenet121", (1,), "take its channels"),
        ("plain20", (1,), "no shortcut"),
    ],
)
def test_a_block_that_has_to_stay_is_refused(name: str, dropped: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        variant(name).spec.with_changes(dropped_blocks=dropped)


def test_dropped_blocks_travel_in_json_and_lower_the_counts() -> None:
    spec = variant("resnet20").spec.with_changes(dropped_blocks=(1, 5))

    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.with_changes(classes=5).dropped_blocks == (1, 5)
    assert count(spec).macs < count(variant("resnet20").spec).macs


def test_a_block_apart_is_the_block() -> None:
    for name in ("resnet20", "preresnet110", "densenet40_12", "highway19", "resnext29_8x64d"):
        model = build_from_spec(variant(name).spec.with_changes(survival=0.5), seed=0).eval()
        with torch.inference_mode():
            for block in list(model.blocks())[:2]:
                channels = next(module.in_channels for module in block.modules() if isinstance(module, nn.Conv2d))
                x = torch.relu(torch.randn(2, channels, 8, 8))
                torch.testing.assert_close(block.apart(x, x), block.joined(x), rtol=1e-4, atol=1e-4)
