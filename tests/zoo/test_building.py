"""From a name to a module with reproducible weights."""

import torch

import resx


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_equal_seeds_give_equal_weights_and_other_seeds_others() -> None:
    first, again, other = (resx.build("resnet20", seed=seed) for seed in (3, 3, 4))

    assert _same(first, again)
    assert not _same(first, other)


def test_a_seed_leaves_the_global_generator_as_it_was() -> None:
    before = torch.get_rng_state()

    resx.build("resnet20", seed=3)

    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_generator_goes_on() -> None:
    torch.manual_seed(0)

    first, second = resx.build("resnet20"), resx.build("resnet20")

    assert not _same(first, second)


def test_survival_changes_no_weight() -> None:
    assert _same(resx.build("resnet20", seed=0), resx.build("resnet20", survival=0.5, seed=0))


def test_classes_set_the_number_of_logits() -> None:
    model = resx.build("resnet20", classes=7, seed=0).eval()

    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_a_network_is_built_in_training_mode() -> None:
    assert resx.build("resnet20", seed=0).training
