"""A share of the training images that is not trained on."""

import numpy as np
import pytest

from resx.data.dataset import DataSet, Split
from resx.data.digits import digits
from resx.data.validation import hold_out_for_validation
from resx.errors import UsageError


@pytest.fixture(scope="module")
def whole() -> DataSet:
    return digits(size=8)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_each_class_gives_its_share_and_every_image_is_on_one_side(whole: DataSet, share: float) -> None:
    data = hold_out_for_validation(whole, share)

    assert data.validation is not None
    per_class = np.bincount(whole.train.targets)
    assert np.bincount(data.validation.targets).tolist() == np.floor(per_class * share + 1e-9).tolist()
    together = [*data.train.images[:], *data.validation.images[:]]
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in whole.train.images[:])
    assert data.held_out is whole.held_out


def test_images_keep_their_classes_however_they_are_asked_for(whole: DataSet) -> None:
    part = hold_out_for_validation(whole, 0.2).validation
    assert part is not None
    class_of = {
        image.tobytes(): target for image, target in zip(whole.train.images[:], whole.train.targets, strict=True)
    }

    chosen = np.array([5, 0, 17])
    for images, targets in ((part.images[3:9], part.targets[3:9]), (part.images[chosen], part.targets[chosen])):
        assert [class_of[image.tobytes()] for image in images] == targets.tolist()


def test_a_share_of_nothing_leaves_the_data_alone(whole: DataSet) -> None:
    assert hold_out_for_validation(whole, 0.0) is whole


def test_a_share_that_is_no_image_is_refused_with_the_remedy(whole: DataSet) -> None:
    few = Split(images=whole.train.images[:4], targets=np.arange(4))
    data = DataSet(name="few", labels=whole.labels, image=whole.image, train=few, held_out=whole.held_out)

    with pytest.raises(UsageError, match=r"--validation 0\.1: selects 0 of 4 training images; give a share"):
        hold_out_for_validation(data, 0.1)
