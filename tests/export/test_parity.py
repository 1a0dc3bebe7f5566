import numpy as np
import pytest

from resx.errors import ParityError
from resx.export import parity
from resx.export.card import Tolerance, signature_of

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


def test_fp16_needs_the_same_classes() -> None:
    swapped = [batch.copy() for batch in LOGITS]
    swapped[0][0] = -swapped[0][0]
    seen = parity.compare("onnx", LOGITS, swapped, Tolerance(top1_agreement=0.99))
    assert seen.top1_agreement == pytest.approx(23 / 24)
    assert not seen.passed


def test_answers_of_another_shape_are_an_error() -> None:
    with pytest.raises(ParityError, match="shape"):
        parity.compare("onnx", LOGITS, [batch[:, :5] for batch in LOGITS], Tolerance())


def test_a_miss_is_one_line_with_numbers_bounds_and_remedy() -> None:
    seen = parity.compare("onnx", LOGITS, shifted(1.0), parity.TOLERANCES["fp32"])
    with pytest.raises(ParityError) as caught:
        parity.require(seen, name="m")
    assert "max 1," in str(caught.value)
    assert "'max_abs': 0.0001" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batches_are_of_one_two_and_the_largest_on_noise_and_on_real_images() -> None:
    from tests.conftest import tiny_spec

    real = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1).repeat(3, 1).repeat(16, 2).repeat(16, 3)
    batches = parity.images_for(signature_of(tiny_spec(), "uint8"), real=real, max_batch_size=8, seed=0)
    assert [len(batch) for batch in batches] == [1, 2, 8, 1, 2, 8, 8, 1]
    assert np.array_equal(np.concatenate(batches[3:]), real)
    few = parity.images_for(signature_of(tiny_spec(), "uint8"), real=real[:5], max_batch_size=8, seed=0)
    assert sum(len(batch) for batch in few[3:]) == 5
