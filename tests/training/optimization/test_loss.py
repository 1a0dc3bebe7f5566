import numpy as np
import pytest
import torch
import torch.nn.functional as F

from resx.training.config import Recipe
from resx.training.optimization.loss import balanced_weights, make_loss

CPU = torch.device("cpu")
TARGETS = np.array([0, 0, 0, 1])
LOGITS = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.4, -0.3], [2.0, 1.0, 0.0]])


def test_balanced_classes_weigh_the_same_together_and_their_mean_over_the_images_is_1() -> None:
    weights = balanced_weights(TARGETS, 2)

    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    assert float(weights[TARGETS].mean()) == 1.0


def test_the_balanced_loss_is_the_mean_of_the_weighted_images() -> None:
    loss = make_loss(Recipe(class_weights="balanced"), TARGETS, 2, CPU)
    logits, right = LOGITS[:, :2], torch.tensor([0, 1, 1])

    each = F.cross_entropy(logits, right, reduction="none") * balanced_weights(TARGETS, 2)[right]
    assert float(loss(logits, right)) == pytest.approx(float(each.mean()))
    # Shares of classes, as mixing makes them, give the same where an image has one class.
    assert float(loss(logits, F.one_hot(right, 2).float())) == pytest.approx(float(each.mean()))


def test_without_weights_the_loss_is_cross_entropy() -> None:
    right = torch.tensor([0, 2, 1])
    loss = make_loss(Recipe(label_smoothing=0.1), TARGETS, 3, CPU)

    assert torch.equal(loss(LOGITS, right), F.cross_entropy(LOGITS, right, label_smoothing=0.1))


def test_the_binary_loss_asks_for_every_class_that_was_mixed_in() -> None:
    loss = make_loss(Recipe(loss="binary"), TARGETS, 3, CPU)
    shares = torch.tensor([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0], [0.1, 0.0, 0.9]])
    asked = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    assert torch.equal(loss(LOGITS, shares), F.binary_cross_entropy_with_logits(LOGITS, asked))
    classes = torch.tensor([0, 2, 1])
    assert torch.equal(loss(LOGITS, classes), F.binary_cross_entropy_with_logits(LOGITS, F.one_hot(classes, 3).float()))
