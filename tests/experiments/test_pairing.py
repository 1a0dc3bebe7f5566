"""Intervals are Student's of the differences, seed by seed, and verdicts follow from them alone."""

import math

import pytest
from benchmarks.experiments.experiment import mean_of
from benchmarks.experiments.pairing import Interval, interval, paired, ratio, verdict
from benchmarks.experiments.rows import Row
from scipy import stats


def row(network: str, seed: int, accuracy: float | None, seconds: float = 1.0) -> Row:
    loss = None if accuracy is None else 0.1
    values = {} if accuracy is None else {"share": accuracy / 2}
    return Row(
        experiment="e",
        network=network,
        data="d",
        recipe="r",
        epochs=1,
        seed=seed,
        loss=loss,
        accuracy=accuracy,
        seconds=seconds,
        values=values,
    )


def test_an_interval_is_scipys() -> None:
    numbers = [0.3, -0.1, 0.45, 0.2, 0.9]
    theirs = stats.ttest_1samp(numbers, 0).confidence_interval(0.95)
    ours = interval(numbers)
    assert (ours.low, ours.high, ours.num_seeds) == (pytest.approx(theirs.low), pytest.approx(theirs.high), 5)
    assert ours.mean == pytest.approx(0.35)


def test_an_interval_of_three_is_the_one_computed_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1, t of 2 degrees of freedom 4.302653.
    found = interval([1.0, 2.0, 3.0])
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_variants_are_compared_seed_by_seed() -> None:
    first = [row("a", 2, 0.9), row("a", 0, 0.5), row("a", 1, 0.7), row("a", 9, 0.0)]
    second = [row("b", 0, 0.4), row("b", 1, 0.5), row("b", 2, 0.6), row("b", 7, 1.0)]
    theirs = stats.ttest_rel([0.5, 0.7, 0.9], [0.4, 0.5, 0.6]).confidence_interval(0.95)
    found = paired(first, second, lambda one: one.measure("accuracy"))
    assert (found.low, found.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert found.num_seeds == 3  # a seed that one of them lacks says nothing of the difference


def test_pairs_tell_a_difference_that_the_spread_over_seeds_hides() -> None:
    first = [row("a", seed, accuracy) for seed, accuracy in enumerate((0.11, 0.512, 0.91, 0.21, 0.811))]
    second = [row("b", seed, accuracy) for seed, accuracy in enumerate((0.10, 0.50, 0.90, 0.20, 0.80))]
    found = paired(first, second, lambda one: one.accuracy)
    assert verdict(found, "above") == "agrees"
    assert stats.ttest_ind([0.11, 0.512, 0.91, 0.21, 0.811], [0.10, 0.50, 0.90, 0.20, 0.80]).pvalue > 0.9


def test_a_training_that_diverged_makes_no_pair() -> None:
    first = [row("a", 0, 0.9), row("a", 1, None), row("a", 2, 0.9)]
    second = [row("b", seed, 0.5) for seed in range(3)]
    assert paired(first, second, lambda one: one.accuracy).num_seeds == 2
    assert mean_of(first, "share").num_seeds == 2


def test_a_ratio_is_that_of_each_seed() -> None:
    first = [row("a", seed, 0.5, seconds) for seed, seconds in enumerate((1.0, 3.0))]
    second = [row("b", seed, 0.5, seconds) for seed, seconds in enumerate((2.0, 4.0))]
    found = ratio(first, second, lambda one: one.seconds)
    assert found.mean == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize(
    ("low", "high", "expected", "bound", "said"),
    [
        (0.1, 0.3, "above", 0.0, "agrees"),
        (0.1, 0.3, "below", 0.0, "does not"),
        (-0.3, -0.1, "below", 0.0, "agrees"),
        (-0.3, -0.1, "above", 0.0, "does not"),
        (-0.1, 0.3, "above", 0.0, "not decided"),
        (0.0, 0.3, "above", 0.0, "not decided"),  # zero at its end is within it
        (0.6, 0.8, "below", 1.0, "agrees"),
        (0.9, 1.1, "below", 1.0, "not decided"),
        (-math.inf, math.inf, "above", 0.0, "not decided"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, expected: str, bound: float, said: str) -> None:
    found = Interval(mean=(low + high) / 2 if math.isfinite(low) else 0.2, low=low, high=high, num_seeds=5)
    assert verdict(found, expected, bound) == said  # type: ignore[arg-type]


def test_one_seed_decides_nothing() -> None:
    one = interval([0.4])
    assert verdict(one, "above") == verdict(one, "below") == "not decided"
    assert one.text(100) == "+40.00 (1 seed: no interval)"
    assert interval([]).text() == "no rows yet"


@pytest.mark.parametrize(
    ("numbers", "said"),
    [([0.4, 0.41, 0.42, 0.41], "not decided"), ([0.4, 0.41, 0.42, 0.41, 0.4], "agrees")],
)
def test_four_seeds_decide_nothing_either(numbers: list[float], said: str) -> None:
    found = interval(numbers)
    assert found.low > 0
    assert verdict(found, "above") == said
