"""A network and a data set so small that an epoch takes a fraction of a second."""

import numpy as np
import pytest

from resx.data.dataset import DataSet, Split
from resx.data.digits import digits
from resx.training.config import TrainingConfig
from resx.zoo.architectures import ResNetArchitecture
from resx.zoo.spec import ModelSpec


@pytest.fixture(scope="session")
def small_data() -> DataSet:
    """96 digits of 16 pixels to train on, 40 held out: the first ones of `digits`."""
    whole = digits(size=16)
    return DataSet(
        name=whole.name,
        labels=whole.labels,
        image=whole.image,
        train=Split(images=np.asarray(whole.train.images[:96]), targets=whole.train.targets[:96]),
        held_out=Split(images=np.asarray(whole.held_out.images[:40]), targets=whole.held_out.targets[:40]),
        fingerprint=whole.fingerprint,
    )


@pytest.fixture(scope="session")
def small_spec(small_data: DataSet) -> ModelSpec:
    """Three residual blocks of 4, 8 and 16 channels, the last of which survives half of the steps."""
    return ModelSpec(
        name="small",
        architecture=ResNetArchitecture(
            block="basic", stage_depths=(1, 1, 1), width=4, stem="cifar", shortcut="padding"
        ),
        classes=10,
        labels=small_data.labels,
        survival=0.5,
        **small_data.image.model_dump(),
    )


@pytest.fixture
def config() -> TrainingConfig:
    """Three epochs of six steps."""
    return TrainingConfig(data="digits", epochs=3, batch_size=16, seed=7)
