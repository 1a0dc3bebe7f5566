"""Which images are evaluated: the part that was asked for, each once, under the name that a user knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.data.loading import load_data
from resx.errors import UsageError
from resx.scoring.evaluation.images import load_images
from tests.support.image_files import write_images


def colors(folder: Path, *, per_class: int, shade: int = 0) -> Path:
    """Write images of two classes; no two files are copies of each other."""
    for name in ("blue", "red"):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            image = Image.new("RGB", (20, 20), name)
            image.putpixel((19, 19), (shade, number, 0))
            image.save(folder / name / f"{number}.png")
    return folder


def test_a_run_is_evaluated_on_the_held_out_part_and_the_others_are_there_too() -> None:
    data = load_data("digits", image_size=8)

    found = {part: load_images("digits", part, edge=8) for part in ("held-out", "train", "all")}  # type: ignore[arg-type]

    assert [len(one) for one in found.values()] == [355, 1442, 1797]
    assert np.array_equal(found["held-out"].targets, data.held_out.targets)
    assert np.array_equal(found["held-out"].images[:], data.held_out.images[:])
    assert found["held-out"].origin == "355 held-out images of digits"
    assert found["train"].origin == "1,442 training images of digits"
    assert found["all"].origin == "1,797 images of digits"
    assert found["all"].names[:1] == ("train/0",)
    assert found["all"].names[-1] == "held-out/354"


def test_a_folder_without_parts_says_by_which_rule_images_are_held_out(tmp_path: Path) -> None:
    text = f"folder:{colors(tmp_path / 'd', per_class=10)}"

    held_out, train, every = (load_images(text, part) for part in ("held-out", "train", "all"))  # type: ignore[arg-type]

    assert held_out.origin == f"4 held-out images of {text} (every fifth of each class)"
    assert held_out.names == ("blue/4.png", "blue/9.png", "red/4.png", "red/9.png")
    assert {*held_out.names, *train.names} == {*every.names}
    assert len(every) == 20
    assert every.origin == f"20 images of {text}"


def test_few_images_are_enough_if_all_are_used(tmp_path: Path) -> None:
    text = f"folder:{colors(tmp_path / 'd', per_class=1)}"

    assert load_images(text, "all").names == ("blue/0.png", "red/0.png")
    with pytest.raises(UsageError, match="too few images for a held-out part"):
        load_images(text, "held-out")


def test_of_train_and_val_each_part_and_both_can_be_had(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        colors(tmp_path / "d" / part, per_class=count, shade=count)
    text = f"folder:{tmp_path / 'd'}"

    assert load_images(text, "held-out").names[0] == "val/blue/0.png"
    assert load_images(text, "held-out").origin == f"4 held-out images of {text}"
    assert len(load_images(text, "all")) == 10


def test_a_folders_image_is_opened_whole_and_digits_are_made_at_the_models_size(tmp_path: Path) -> None:
    folder = load_images(f"folder:{colors(tmp_path / 'd', per_class=1)}", "all")
    digits = load_images("digits", "held-out", edge=8)

    with folder.opener(8)(1) as image:
        assert (image.size, image.getpixel((0, 0))) == ((20, 20), (255, 0, 0))
    for edge, size in ((8, 8), (16, 16), (None, 8)):
        with digits.opener(edge)(3) as image:
            assert image.size == (size, size)
    with digits.opener(16)(3) as image:
        made = load_data("digits", image_size=16).held_out.images[3:4][0]
        assert np.array_equal(np.asarray(image).transpose(2, 0, 1), made)


def test_images_that_cannot_be_read_are_refused_or_counted(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "d", 12)
    (folder / "0" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")

    with pytest.raises(UsageError, match=r"1 of 13 images cannot be read .*--skip-bad"):
        load_images(f"folder:{folder}", "all")
    assert (load_images(f"folder:{folder}", "all", bad_images="skip").num_skipped) == 1
