import hashlib

import numpy as np
import pytest

from resx.data.digits import digits
from resx.data.loading import load_data
from resx.errors import UsageError


def test_the_digits_are_1442_images_to_train_on_and_355_held_out() -> None:
    data = load_data("digits")

    assert data.train.images[:].shape == (1442, 3, 32, 32)
    assert data.held_out.images[:].shape == (355, 3, 32, 32)
    assert data.train.images[:].dtype == np.uint8
    assert data.train.targets.dtype == np.int64
    assert data.labels == tuple(f"digit-{digit}" for digit in range(10))


def test_every_fifth_image_of_each_class_is_held_out() -> None:
    from sklearn.datasets import load_digits

    per_class = np.bincount(load_digits().target)
    data = digits(size=8)

    assert np.bincount(data.held_out.targets).tolist() == (per_class // 5).tolist()
    assert np.bincount(data.train.targets).tolist() == (per_class - per_class // 5).tolist()


def test_the_split_never_changes() -> None:
    data = digits(size=8)

    order = hashlib.sha256(data.train.targets.tobytes() + data.held_out.targets.tobytes()).hexdigest()
    assert order == "c8df6b4a39826bbb5dd2b616eeeae944f4f1edb1252eac79b196325a85e66a17"
    assert np.array_equal(digits(size=8).train.images[:], data.train.images[:])


def test_no_digit_is_in_both_parts() -> None:
    data = digits(size=8)

    train = {image.tobytes() for image in data.train.images[:]}
    assert not any(image.tobytes() in train for image in data.held_out.images[:])


def test_the_normalisation_is_that_of_the_training_images() -> None:
    data = digits(size=16)

    pixels = data.train.images[:].astype(np.float64) / 255
    assert data.image.image_size == 16
    assert data.image.mean == pytest.approx((pixels.mean(),) * 3, rel=1e-6)
    assert data.image.std == pytest.approx((pixels.std(),) * 3, rel=1e-6)


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"'digit'.*did you mean digits"):
        load_data("digit")


def test_the_digits_come_at_the_size_that_is_asked_for() -> None:
    data = load_data("digits", image_size=16)

    assert data.train.images[:2].shape == (2, 3, 16, 16)
    assert (data.image.image_size, data.image.resize) == (16, 16)


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("digits", 4, "image_size=4: give 8 pixels or more"),
        ("digits:here", None, "it is built in; use `digits` without"),
        ("mnist5k:here", None, "it is built in; use `mnist5k` without"),
        ("mnist5", None, "did you mean mnist5k"),
        ("cifar10", None, r"use cifar10:DIR"),
        ("folder:", None, r"use folder:DIR"),
        ("cifar10:/nowhere", 16, "have 32 pixels"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused(name: str, image_size: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_data(name, image_size=image_size)
