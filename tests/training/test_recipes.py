import copy

import pytest
from torch import nn

from resx.errors import UsageError
from resx.training.batches import steps_per_epoch
from resx.training.config import Recipe, TrainingConfig, learning_rate_at
from resx.training.optimization.optimizer import fill_missing_gradients, make_optimizer
from resx.training.recipes import RECIPES, configure, default_recipe


def rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    return [learning_rate_at(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


def test_the_digits_recipe_is_the_default_configuration() -> None:
    assert configure("digits", default_recipe("digits"), {}) == TrainingConfig(data="digits")


# Epochs, batch, weight decay, epochs of the two divisions by ten: as the papers print them.
@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "weight_decay", "divided_at"),
    [
        ("huang2016-depth", 500, 128, 1e-4, (250, 375)),
        ("huang2016-depth-1202", 300, 128, 1e-4, (150, 225)),
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
    assert recipe.padding == "mean"
    schedule = rates(recipe, 10)
    for epoch, before, after in zip(divided_at, (0.1, 0.01), (0.01, 0.001), strict=True):
        assert schedule[int(epoch * 10) - 1] == pytest.approx(before)
        assert schedule[int(epoch * 10)] == pytest.approx(after)
    assert "arXiv" in RECIPES[name].source


@pytest.mark.parametrize("name", ["he2015-cifar", "he2016-preact"])
def test_he_et_al_divide_the_rate_after_32_and_48_thousand_steps_of_50000_images(name: str) -> None:
    recipe = RECIPES[name].recipe
    steps = steps_per_epoch(50_000, recipe.batch_size)

    assert (recipe.epochs * steps, steps) == (63_960, 390)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 1e-4)
    for step, rate in (
        (0, 0.01),
        (389, 0.01),
        (390, 0.1),
        (31_999, 0.1),
        (32_000, 0.01),
        (47_999, 0.01),
        (48_000, 1e-3),
    ):
        assert learning_rate_at(recipe, step, steps) == pytest.approx(rate), step


def test_1202_layers_begin_with_ten_epochs_at_a_tenth() -> None:
    recipe = RECIPES["huang2016-depth-1202"].recipe

    assert rates(recipe, 3)[:31] == pytest.approx([0.01] * 30 + [0.1])


def test_imagenets_recipe_divides_the_rate_at_30_and_60_of_90_epochs() -> None:
    recipe = RECIPES["he2015-imagenet"].recipe

    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, recipe.resized_crop) == (90, 256, 1e-4, True)
    for epoch, rate in ((0, 0.1), (29, 0.1), (30, 0.01), (59, 0.01), (60, 1e-3), (89, 1e-3)):
        assert learning_rate_at(recipe, epoch * 5004, 5004) == pytest.approx(rate), epoch


def test_the_highway_recipe_is_the_authors_solver() -> None:
    recipe = RECIPES["srivastava2015-highway"].recipe
    steps = steps_per_epoch(50_000, recipe.batch_size)

    assert (recipe.epochs * steps, recipe.learning_rate, recipe.nesterov) == (200_000, 0.025, True)
    assert (recipe.weight_decay, recipe.decay_biases) == (1e-3, False)
    for step, rate in ((99_999, 0.025), (100_000, 0.0025), (150_000, 0.00025), (175_000, 0.000025)):
        assert learning_rate_at(recipe, step, steps) == pytest.approx(rate), step


def test_biases_decay_unless_the_recipe_says_otherwise() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    for decay_biases, bias in ((True, 0.5), (False, 1.0)):
        made = copy.deepcopy(model)
        recipe = Recipe(learning_rate=1.0, momentum=0.0, weight_decay=0.5, decay_biases=decay_biases)
        fill_missing_gradients(made)
        make_optimizer(made, recipe).step()
        assert {name: float(p.detach().flatten()[0]) for name, p in made.named_parameters()} == {
            "0.weight": 0.5, "0.bias": bias, "1.weight": 0.5, "1.bias": bias
        }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "weights", "recipe"),
    [
        ("digits", "none", "digits"),
        ("mnist5k", "runs/a", "digits"),
        ("cifar10:x", "none", "he2015-cifar"),
        ("folder:x", "none", "small-data"),
        ("folder:x", "imagenet", "fine-tuning"),
        ("folder:x", "w.pth", "fine-tuning"),
    ],
)
def test_the_usual_recipe_is_that_of_the_data_and_the_weights(data: str, weights: str, recipe: str) -> None:
    assert default_recipe(data, weights) == recipe


def test_torchvisions_recipe_is_that_of_its_second_weights() -> None:
    recipe = RECIPES["tv-v2"].recipe

    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (600, 1024, 0.5)
    assert (recipe.weight_decay, recipe.decay_norms, recipe.decay_biases) == (2e-5, False, True)
    assert (recipe.label_smoothing, recipe.mixup, recipe.cutmix, recipe.random_erasing) == (0.1, 0.2, 1.0, 0.1)
    assert (recipe.augment, recipe.schedule, recipe.warmup_epochs) == ("trivialaugment", "cosine", 5)
    # theirs: in every 32nd step, 1024 x 32 / 600 times a hundred thousandth of the new weights, times two
    assert recipe.ema == pytest.approx((1 - 2e-5 * 1024 * 32 / 600) ** (1 / 32), abs=1e-6)


def test_timms_a3_recipe_is_that_of_resnet_strikes_back() -> None:
    recipe = RECIPES["timm-a3"].recipe

    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (100, 2048, 8e-3)
    assert (recipe.optimizer, recipe.loss, recipe.weight_decay) == ("lamb", "binary", 0.02)
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.random_erasing) == (0.1, 1.0, 0.0, 0.0)
    assert (recipe.decay_biases, recipe.decay_norms, recipe.ema) == (False, False, 0.0)


def test_a_step_schedule_without_milestones_falls_after_a_half_and_three_quarters() -> None:
    config = configure("digits", "digits", {"schedule": "step", "epochs": 8, "warmup": "none"})

    assert rates(config, 1) == pytest.approx([0.05] * 4 + [0.005] * 2 + [0.0005] * 2)


def test_a_shorter_run_warms_up_for_at_most_half_of_its_epochs() -> None:
    assert configure("folder:x", "small-data", {"epochs": 2}).warmup_epochs == 1
    assert configure("folder:x", "small-data", {"epochs": 60}).warmup_epochs == 3
    assert configure("folder:x", "small-data", {"epochs": 4, "warmup_epochs": 3}).warmup_epochs == 3


def test_an_earlier_runs_name_of_the_step_schedule_is_read() -> None:
    assert TrainingConfig.model_validate({"data": "digits", "schedule": "steps"}).schedule == "step"


def test_an_earlier_runs_settings_keep_their_meaning() -> None:
    fields = RECIPES["he2015-cifar"].recipe.model_dump()
    for added in ("decay_biases", "padding", "resized_crop", "skipped_blocks", "warmup_epochs"):
        del fields[added]

    earlier = TrainingConfig.model_validate(fields | {"data": "digits"})

    assert (earlier.decay_biases, earlier.padding, earlier.resized_crop) == (True, "zeros", False)
    assert (earlier.skipped_blocks, earlier.warmup_epochs) == ("rest", 1)


def test_the_stochastic_depth_recipes_bring_their_survival_probability_and_let_skipped_blocks_move() -> None:
    for name in ("huang2016-depth", "huang2016-depth-1202"):
        assert (RECIPES[name].survival, RECIPES[name].recipe.skipped_blocks) == (0.5, "move")
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
