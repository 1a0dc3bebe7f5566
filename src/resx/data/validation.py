"""A share of the training images held out of training, to choose an epoch on: the held-out part then measures only.

The images are spread evenly over each class in the data's order, so the split has no seed and never changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resx.data.dataset import DataSet, Images, Split
from resx.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenImages:
    """Some of the images of another source, which are had from there when they are asked for."""

    images: Images
    chosen: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, wanted: slice | npt.NDArray[np.int64], /) -> npt.NDArray[np.uint8]:
        return self.images[self.chosen[wanted]]


def hold_out_for_validation(data: DataSet, share: float) -> DataSet:
    """Return the data with a share of each class's training images as validation part; 0 leaves the data alone.

    Raises:
        UsageError: the share is no image of any class, or leaves none to train on.
    """
    if share == 0:
        return data
    targets = data.train.targets
    validates = np.zeros(len(targets), dtype=np.bool_)
    for number in np.unique(targets):
        places = np.flatnonzero(targets == number)
        # The n-th image of a class belongs to validation where n * share passes a whole number.
        passed = np.floor(np.arange(1, len(places) + 1) * share + 1e-9)
        validates[places] = np.diff(passed, prepend=0.0) > 0
    if not validates.any() or validates.all():
        raise UsageError(
            f"--validation {share:g}: selects {int(validates.sum())} of {len(targets)} training "
            "images; give a share that leaves some for training and some for validation"
        )
    return replace(data, train=_part(data.train, ~validates), validation=_part(data.train, validates))


def _part(split: Split, mask: npt.NDArray[np.bool_]) -> Split:
    chosen = np.flatnonzero(mask)
    return Split(images=ChosenImages(images=split.images, chosen=chosen), targets=split.targets[chosen])
