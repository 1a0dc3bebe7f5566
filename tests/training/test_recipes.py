import pytest

from resx.errors import UsageError
from resx.training.config import Recipe, TrainingConfig, learning_rate_at
from resx.training.recipes import RECIPES, configure, default_recipe


def rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    return [learning_rate_at(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


def test_the_digits_recipe_is_the_default_configuration() -> None:
    assert configure("digits", default_recipe("digits"), {}) == TrainingConfig(data="digits")


# Epochs, batch, weight decay, epochs of the two divisions by ten: as the papers print them.
@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "weight_decay", "divided_at"),
    [
        ("he2015-cifar", 182, 128, 1e-4, (91, 136.5)),
        ("he2016-preact", 164, 128, 1e-4, (82, 123)),
        ("huang2016-depth", 500, 128, 1e-4, (250, 375)),
        ("huang2017-dense", 300, 64, 1e-4, (150, 225)),
        ("xie2017-resnext", 300, 128, 5e-4, (150, 225)),
    ],
)
def test_a_papers_recipe_is_what_the_paper_says(
    name: str, epochs: int, batch_size: int, weight_decay: float, divided_at: tuple[float, float]
) -> None:
    recipe = RECIPES[name].recipe

    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay) == (epochs, batch_size, weight_decay)
    assert (recipe.learning_rate, recipe.momentum, recipe.shift_px, recipe.flip) == (0.1, 0.9, 4, True)
    schedule = rates(recipe, 10)
    for epoch, before, after in zip(divided_at, (0.1, 0.01), (0.01, 0.001), strict=True):
        assert schedule[int(epoch * 10) - 1] == pytest.approx(before)
        assert schedule[int(epoch * 10)] == pytest.approx(after)
    assert "arXiv" in RECIPES[name].source


def test_the_stochastic_depth_recipe_brings_its_survival_probability() -> None:
    assert RECIPES["huang2016-depth"].survival == 0.5
    assert RECIPES["he2015-cifar"].survival == 1.0


def test_a_cosine_rises_over_the_first_epoch_and_falls_to_almost_nothing() -> None:
    schedule = rates(Recipe(epochs=5, learning_rate=1.0), 8)

    assert schedule[:8] == pytest.approx([step / 8 for step in range(1, 9)])
    assert schedule[8] == 1.0
    assert schedule[8:] == sorted(schedule[8:], reverse=True)
    assert 0 < schedule[-1] < 0.01


def test_the_he_recipes_begin_with_an_epoch_at_a_tenth() -> None:
    schedule = rates(RECIPES["he2016-preact"].recipe, 4)

    assert schedule[:5] == pytest.approx([0.01] * 4 + [0.1])


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert rates(Recipe(epochs=2, learning_rate=1.0, warmup="none"), 4)[0] == 1.0


def test_values_that_are_given_replace_the_recipes() -> None:
    config = configure("cifar10:x", "he2015-cifar", {"epochs": 3, "learning_rate": 0.2})

    assert (config.epochs, config.learning_rate, config.weight_decay) == (3, 0.2, 1e-4)
    assert config.recipe == "he2015-cifar"


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"label_smoothing": 1.0}, {"momentum": 1}, {"precision": "fp8"}])
def test_a_value_out_of_its_range_is_named(changes: dict[str, object]) -> None:
    name, value = next(iter(changes.items()))

    with pytest.raises(UsageError, match=f"{name}={value}: "):
        configure("digits", "digits", changes)


def test_an_unknown_recipe_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"'huang2017'.*did you mean huang2017-dense"):
        configure("digits", "huang2017", {})
