import numpy as np

from resx.data.augment import Draws, augment, draw
from resx.data.digits import digits


def test_shifting_moves_each_image_by_its_own_offset_and_fills_with_zeros() -> None:
    image = np.zeros((1, 3, 9, 9), dtype=np.uint8)
    image[0, :, 4, 4] = 255

    moved = augment(image.repeat(200, axis=0), draw(200, np.random.default_rng(0), max_px=2, flip=False))

    assert moved.shape == (200, 3, 9, 9)
    assert moved.sum() == 200 * 3 * 255  # nothing fell off the edge, nothing was added
    places = {tuple(np.argwhere(one[0])[0]) for one in moved}
    assert places == {(y, x) for y in range(2, 7) for x in range(2, 7)}


def test_an_offset_is_down_and_then_across() -> None:
    image = np.zeros((1, 3, 5, 5), dtype=np.uint8)
    image[0, :, 2, 2] = 255

    moved = augment(image, Draws(max_px=2, offsets=np.array([[4, 1]]), flips=np.array([False])))

    # The crop begins 2 pixels lower and 1 pixel further left than the image did.
    assert np.argwhere(moved[0, 0]).tolist() == [[0, 3]]


def test_about_half_of_the_images_are_mirrored() -> None:
    image = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    image[0, :, 0, 0] = 255

    mirrored = augment(image.repeat(400, axis=0), draw(400, np.random.default_rng(0), max_px=0, flip=True))

    assert np.array_equal(mirrored[:, 0, 0, 0] == 0, mirrored[:, 0, 0, 3] == 255)
    assert 150 < (mirrored[:, 0, 0, 3] == 255).sum() < 250


def test_without_shift_and_flip_the_images_come_back() -> None:
    images = digits(size=8).train.images[:4]

    assert np.array_equal(augment(images, draw(4, np.random.default_rng(0), max_px=0, flip=False)), images)


def test_parts_of_a_batch_are_changed_as_the_whole_batch_is() -> None:
    images = digits(size=8).train.images[:16]
    draws = draw(16, np.random.default_rng(3), max_px=2, flip=True)

    halves = [augment(images[part], draws.part(part)) for part in (slice(0, 8), slice(8, 16))]

    assert np.array_equal(np.concatenate(halves), augment(images, draws))
