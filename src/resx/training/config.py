"""What a training run was asked to do, as a frozen value that is stored with it."""

from pydantic import Field

from resx.zoo.spec import FrozenModel


class TrainingConfig(FrozenModel):
    """Stochastic gradient descent with Nesterov momentum under a cosine learning rate.

    A run is resumed only with the configuration it was begun with.
    """

    data: str
    epochs: int = Field(default=15, ge=1)
    batch_size: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=0.05, gt=0)
    """At the peak: it rises over the first epoch and falls along a half cosine to zero."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    shift_px: int = Field(default=2, ge=0)
    """Augmentation: each training image moves by up to this many pixels, edges padded with zeros."""
    seed: int = Field(default=0, ge=0)
