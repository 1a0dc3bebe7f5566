import numpy as np
import pytest

from resx.card.kinds import Precision
from resx.card.parity_result import Tolerance, flips_text
from resx.card.signature import signature_of
from resx.errors import ParityError
from resx.export.checks import parity

LOGITS = [np.random.default_rng(0).normal(size=(8, 10)) for _ in range(3)]


def shifted(by: float) -> list[np.ndarray]:
    return [batch + by for batch in LOGITS]


def test_equal_answers_pass_with_zero() -> None:
    seen = parity.compare("onnx", LOGITS, LOGITS, parity.TOLERANCES["fp32"])
    assert seen.passed
    assert (seen.max_abs, seen.mean_abs, seen.top1_agreement) == (0.0, 0.0, 1.0)
    assert seen.num_images == 24


def test_a_difference_over_the_bound_fails() -> None:
    assert parity.compare("onnx", LOGITS, shifted(9e-5), parity.TOLERANCES["fp32"]).passed
    assert not parity.compare("onnx", LOGITS, shifted(5e-4), parity.TOLERANCES["fp32"]).passed


def test_big_logits_do_not_fail_a_good_model_and_small_ones_do_not_pass_a_bad_one() -> None:
    big = [batch * 1000 for batch in LOGITS]
    assert parity.compare("onnx", big, [batch + 0.05 for batch in big], parity.TOLERANCES["fp32"]).passed
    small = [batch / 1000 for batch in LOGITS]
    assert not parity.compare("onnx", small, [batch + 5e-5 for batch in small], parity.TOLERANCES["fp32"]).passed


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_never_passes(wrong: float) -> None:
    candidate = [batch.copy() for batch in LOGITS]
    candidate[1][3, 3] = wrong
    assert not parity.compare("onnx", LOGITS, candidate, Tolerance()).passed
    assert not parity.compare("onnx", candidate, candidate, Tolerance()).passed


def two_classes(*margins: float, scale: float = 100.0) -> list[np.ndarray]:
    """Logits of three classes at this scale: the first is ahead of the second by the margins."""
    return [np.array([[scale, scale - margin, -scale] for margin in margins])]


def flipped(logits: list[np.ndarray], *rows: int) -> list[np.ndarray]:
    changed = [batch.copy() for batch in logits]
    for row in rows:
        changed[0][row, :2] = changed[0][row, 1::-1]
    return changed


@pytest.mark.parametrize(("precision", "allowed"), [("fp16", 1.0), ("bf16", 4.0)])
def test_a_near_tie_may_flip_and_is_reported(precision: Precision, allowed: float) -> None:
    """The largest error that passes is tau S, so no image with a margin over 2 tau S can flip."""
    logits = two_classes(0.5, 50.0, 1.99 * allowed, 2.01 * allowed)
    seen = parity.compare("onnx", logits, flipped(logits, 0), parity.TOLERANCES[precision])
    assert seen.passed
    assert (seen.num_flips, seen.num_decided, seen.num_decided_flips) == (1, 2, 0)
    assert seen.near_tie_margin == pytest.approx(0.5 / (2 * allowed))
    assert "1 of 4 images change class (a near tie, margin" in flips_text(seen)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_decided_image_must_keep_its_class(precision: Precision) -> None:
    logits = two_classes(0.001, 50.0, 30.0)
    seen = parity.compare("onnx", logits, flipped(logits, 1), parity.TOLERANCES[precision])
    assert not seen.passed
    assert seen.num_decided_flips == 1


def test_a_small_fault_that_flips_nothing_fails_the_bound_of_rounding() -> None:
    """A batch norm's epsilon of 1e-3 for 1e-5 changed the logits by this much, and every class agreed."""
    logits = two_classes(50.0, 60.0)
    for by in (1.4, 0.32):
        assert not parity.compare("onnx", logits, [batch + by for batch in logits], parity.TOLERANCES["fp16"]).passed
    assert parity.compare("onnx", logits, [batch + 0.15 for batch in logits], parity.TOLERANCES["fp16"]).passed


def test_the_fp32_form_is_held_to_a_ten_thousandth_whatever_the_logits() -> None:
    for scale in (1e-3, 1.0, 1e4):
        logits = two_classes(0.5 * scale, scale=scale)
        for by, passes in ((0.9e-4, True), (1.1e-4, False)):
            shifted_by = [batch + by * scale for batch in logits]
            assert parity.compare("fold", logits, shifted_by, parity.STRUCTURE).passed == passes


def test_bounds_of_rounding_grow_with_the_root_of_the_depth_beyond_200_layers() -> None:
    assert parity.tolerance_for("fp16", 53) == parity.tolerance_for("fp16", 200) == parity.TOLERANCES["fp16"]
    deep = parity.tolerance_for("bf16", 800)
    assert (deep.max_rel, deep.mean_rel) == (pytest.approx(8e-2), pytest.approx(2e-2))
    assert parity.tolerance_for("fp32", 1001) == parity.TOLERANCES["fp32"]
    assert parity.tolerance_for("int8", 1001) == parity.TOLERANCES["int8"]


@pytest.mark.parametrize(("num_flips", "passes"), [(0, True), (7, True), (8, False)])
def test_int8_fails_where_more_decided_images_flip_than_chance_explains(num_flips: int, passes: bool) -> None:
    """With 2 % of flips, 8 or more of 128 images have a chance of 0.4 %, 7 or more of 1.4 %."""
    logits = [np.tile([1.0, 0.0, 0.0, 0.0], (128, 1))]
    tolerance = parity.TOLERANCES["int8"].model_copy(update={"cosine": 0.9})
    seen = parity.compare("int8", logits, flipped(logits, *range(num_flips)), tolerance)
    assert (seen.num_decided, seen.num_decided_flips) == (128, num_flips)
    assert seen.passed == passes


def test_int8_does_not_judge_near_ties() -> None:
    logits = [np.tile([1.0, 0.999, 0.0, 0.0], (27, 1))]
    seen = parity.compare("int8", logits, flipped(logits, *range(9)), parity.TOLERANCES["int8"])
    assert seen.passed
    assert (seen.num_flips, seen.num_decided) == (9, 0)


def test_a_single_output_has_no_class_to_change_and_its_direction_is_that_of_all_images() -> None:
    scores = [np.linspace(-1, 1, 9)[:, None]]
    assert parity.compare("int8", scores, [scores[0] * 1.01], parity.TOLERANCES["int8"]).passed
    assert not parity.compare("int8", scores, [scores[0][::-1]], parity.TOLERANCES["int8"]).passed


@pytest.mark.parametrize(
    ("lost", "won", "fails"),
    [(0, 0, False), (6, 0, False), (7, 0, True), (7, 4, False), (40, 40, False), (60, 20, True)],
)
def test_accuracy_fails_only_where_the_drop_is_surely_above_a_point(lost: int, won: int, fails: bool) -> None:
    before, after = np.ones(200, bool), np.ones(200, bool)
    after[:lost] = False
    before[100 : 100 + won] = False
    assert (parity.drop_low(before, after) > 0.01) == fails
    seen = parity.compare("onnx", LOGITS, LOGITS, parity.TOLERANCES["fp16"])
    judged = parity.with_accuracy(seen, before, after)
    assert judged.passed != fails
    assert (judged.num_labelled, judged.accuracy) == (200, pytest.approx(1 - lost / 200))


def test_answers_of_another_shape_are_an_error() -> None:
    with pytest.raises(ParityError, match="shape"):
        parity.compare("onnx", LOGITS, [batch[:, :5] for batch in LOGITS], Tolerance())


def test_a_miss_is_one_line_with_numbers_bounds_and_remedy() -> None:
    seen = parity.compare("onnx", LOGITS, shifted(1.0), parity.TOLERANCES["fp32"])
    with pytest.raises(ParityError) as caught:
        parity.require(seen, name="m")
    assert "max 1," in str(caught.value)
    assert "'max_rel': 0.0001" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batches_are_of_one_two_and_the_largest_on_noise_and_on_real_images() -> None:
    from tests.support.tiny_models import tiny_spec

    real = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1).repeat(3, 1).repeat(16, 2).repeat(16, 3)
    batches = parity.images_for(signature_of(tiny_spec(), "uint8"), real=real, max_batch_size=8, seed=0)
    assert [len(batch) for batch in batches] == [1, 2, 8, 1, 2, 8, 8, 1]
    assert np.array_equal(np.concatenate(batches[3:]), real)
    few = parity.images_for(signature_of(tiny_spec(), "uint8"), real=real[:5], max_batch_size=8, seed=0)
    assert sum(len(batch) for batch in few[3:]) == 5


def test_a_model_of_single_images_is_asked_for_single_images_only() -> None:
    from tests.support.tiny_models import tiny_spec

    real = np.zeros((5, 3, 16, 16), np.uint8)
    batches = parity.images_for(signature_of(tiny_spec(), "uint8"), real=real, max_batch_size=1, seed=0)
    assert [len(batch) for batch in batches] == [1] * 6


def test_a_network_that_amplifies_rounding_has_a_wider_tolerance_within_limits() -> None:
    base = parity.TOLERANCES["fp16"]
    logits = two_classes(50.0)
    for by, allowed in ((0.1, 1e-2), (2.0, 4e-2), (50.0, 5e-2)):
        rounding = parity.compare("rounding", logits, [batch + by for batch in logits], base)
        assert parity.widen(base, rounding).max_rel == pytest.approx(allowed)
