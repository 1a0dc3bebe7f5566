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


def test_what_an_image_leaves_bare_gets_the_color_of_the_edge() -> None:
    image = np.full((1, 3, 5, 5), 200, dtype=np.uint8)

    moved = augment(image, Draws(max_px=2, offsets=np.array([[0, 4]]), flips=np.array([False])), edge=(10, 20, 30))

    # Two pixels lower and two pixels further left.
    assert [moved[0, channel, 0].tolist() for channel in range(3)] == [[10] * 5, [20] * 5, [30] * 5]
    assert moved[0, 0, 2].tolist() == [200, 200, 200, 10, 10]


def test_a_resized_crop_is_a_part_of_the_image_at_the_size_of_the_image() -> None:
    ramp = np.arange(64, dtype=np.uint8)[None, :].repeat(64, 0)
    images = np.stack([ramp, ramp.T, ramp])[None].repeat(300, axis=0)

    draws = draw(300, np.random.default_rng(0), max_px=0, flip=False, resized_crop=True)
    cropped = augment(images, draws)

    assert cropped.shape == images.shape
    for image, (top, left, height, width) in zip(cropped, draws.boxes, strict=True):
        assert abs(image[0, 0, 0] - (64 * left)) <= 1.5
        assert abs(image[0, 0, -1] - (64 * (left + width) - 1)) <= 1.5
        assert abs(image[1, -1, 0] - (64 * (top + height) - 1)) <= 1.5
    areas, ratios = draws.boxes[:, 2] * draws.boxes[:, 3], draws.boxes[:, 3] / draws.boxes[:, 2]
    assert 0.07 < areas.min() < 0.12
    assert areas.max() > 0.9
    assert 0.74 < ratios.min() < ratios.max() < 1.34
    assert (draws.boxes[:, :2] + draws.boxes[:, 2:]).max() <= 1 + 1e-12


def test_a_resized_crop_leaves_the_other_draws_as_they_are() -> None:
    plain, cropped = (
        draw(8, np.random.default_rng(3), max_px=2, flip=True, resized_crop=resized) for resized in (False, True)
    )

    assert np.array_equal(plain.offsets, cropped.offsets)
    assert np.array_equal(plain.flips, cropped.flips)


def test_parts_of_a_batch_are_cropped_as_the_whole_batch_is() -> None:
    images = digits(size=8).train.images[:16]
    draws = draw(16, np.random.default_rng(3), max_px=0, flip=True, resized_crop=True)

    halves = [augment(images[part], draws.part(part)) for part in (slice(0, 8), slice(8, 16))]

    assert np.array_equal(np.concatenate(halves), augment(images, draws))
