import numpy as np
import pytest
import torch

from resx.training.config import Recipe
from resx.training.transforms import Transforms, make_transforms

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8))
FLOATS = IMAGES / 255.0
TARGETS = torch.tensor([0, 1, 2, 3, 0, 1])
SEEDS = np.arange(6) + 100


def test_nothing_is_made_of_a_recipe_without_them() -> None:
    assert make_transforms(Recipe(), 4) == Transforms()
    images, targets = Transforms().finish(FLOATS, TARGETS, SEEDS, 0)
    assert images is FLOATS
    assert targets is TARGETS


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
def test_an_image_is_changed_by_its_seed_alone(name: str) -> None:
    transforms = make_transforms(Recipe.model_validate({"augment": name}), 4)
    changed = transforms.change_images(IMAGES, SEEDS)

    assert changed.dtype == torch.uint8
    assert changed.shape == IMAGES.shape
    assert not torch.equal(changed, IMAGES)
    for place in range(6):  # alone, in any company, again
        one = slice(place, place + 1)
        assert torch.equal(transforms.change_images(IMAGES[one], SEEDS[one])[0], changed[place])
    assert not torch.equal(transforms.change_images(IMAGES, SEEDS + 1), changed)


def test_what_the_rest_of_a_step_draws_stays_the_same() -> None:
    transforms = make_transforms(Recipe(augment="randaugment", random_erasing=1.0, mixup=0.2, cutmix=1.0), 4)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    transforms.change_images(IMAGES, SEEDS)
    transforms.finish(FLOATS, TARGETS, SEEDS, 9)

    assert torch.equal(torch.rand(3), expected)


def test_erasing_puts_zeros_where_a_rectangle_is() -> None:
    transforms = make_transforms(Recipe(random_erasing=1.0), 4)
    erased, targets = transforms.finish(FLOATS + 1, TARGETS, SEEDS, 0)

    assert torch.equal(targets, TARGETS)
    for image, before in zip(erased, FLOATS + 1, strict=True):
        gone = (image == 0).all(0)
        assert 0 < int(gone.sum()) < 256
        assert torch.equal(image[:, ~gone], before[:, ~gone])
        rows, columns = gone.any(1), gone.any(0)
        assert int(gone.sum()) == int(rows.sum()) * int(columns.sum())


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_mixed_targets_are_the_shares_of_the_images(changes: dict[str, float]) -> None:
    transforms = make_transforms(Recipe.model_validate(changes), 6)
    # Each image has one value, and its class is its place: so a mixed image tells its shares.
    plain = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous()
    mixed, shares = transforms.finish(plain, torch.arange(6), SEEDS, 3)

    assert shares.shape == (6, 6)
    assert torch.allclose(shares.sum(1), torch.ones(6))
    assert 0 < float(shares[0, 0]) < 1
    means = mixed.mean((1, 2, 3))
    assert torch.allclose(means, shares @ torch.arange(6.0), atol=1e-5)
    again, _ = transforms.finish(plain, torch.arange(6), SEEDS, 3)
    assert torch.equal(again, mixed)
    other, _ = transforms.finish(plain, torch.arange(6), SEEDS, 4)
    assert not torch.equal(other, mixed)
