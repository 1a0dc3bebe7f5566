"""Which folders are the parts of a data set, and which its classes."""

from pathlib import Path

import pytest
from PIL import Image

from resx.data.dataset import DataSet
from resx.data.folder_layout import part_of
from resx.data.loading import load_data
from resx.errors import UsageError


def fill(root: Path, *folders: str, num: int = 5) -> Path:
    """Make folders of different images."""
    for shade, folder in enumerate(folders, start=1):
        (root / folder).mkdir(parents=True)
        for index in range(num):
            Image.new("RGB", (20, 20), (9 * shade, index, len(folder))).save(root / folder / f"{index}.png")
    return root


def load(root: Path) -> DataSet:
    return load_data(f"folder:{root}", image_size=16)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("train_set", "train"), ("train2017", "train"),
        ("val", "val"), ("Valid", "val"), ("validation", "val"), ("dev", "val"), ("eval", "val"), ("val-images", "val"),
        ("test", "test"), ("Testing", "test"), ("testset", "test"), ("trains", None), ("cat", None), ("device", None),
        ("value", None), ("contest", None), ("trainer", None),
    ],
)  # fmt: skip
def test_parts_are_known_by_their_usual_names_in_any_case(name: str, part: str | None) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("train", "held_out"),
    [("train", "val"), ("Train", "Val"), ("training", "valid"), ("TRAIN", "validation"), ("train_set", "dev")],
)
def test_two_parts_are_trained_on_and_held_out(tmp_path: Path, train: str, held_out: str) -> None:
    fill(tmp_path, f"{train}/a", f"{train}/b", f"{held_out}/a", f"{held_out}/b")

    data = load(tmp_path)

    assert data.labels == ("a", "b")
    assert (len(data.train), len(data.held_out)) == (10, 10)
    if (train, held_out) != ("train", "val"):
        assert data.remarks == [f"Trained on: {train}/, held out: {held_out}/"]


def test_without_val_the_test_part_is_held_out_and_it_is_said(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "Test/a", "Test/b")

    data = load(tmp_path)

    assert (data.labels, len(data.train), len(data.held_out)) == (("a", "b"), 10, 10)
    assert data.remarks == ["Held out: Test/, because there is no val/; the best epoch is chosen on these images"]


def test_what_lies_beside_both_parts_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/a", "train/b", "val/a", "val/b", "test/a", "extra", num=2)
    Image.new("RGB", (9, 9)).save(tmp_path / "cover.jpg")

    data = load(tmp_path)

    assert (len(data.train), len(data.held_out)) == (4, 4)
    assert data.remarks == ["Not used: extra/, test/", "Skipped 1 image in no class's folder: cover.jpg"]


def test_a_training_part_alone_is_divided(tmp_path: Path) -> None:
    data = load(fill(tmp_path, "Training/a", "Training/b"))

    assert (data.labels, len(data.train), len(data.held_out)) == (("a", "b"), 8, 2)
    assert data.remarks == ["No val/ beside Training/: every fifth image of each class is held out"]


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train", "test"], "train: no folder per class in it (5 images are directly in it)"),
        (["Train/a", "Train/b", "train/a", "train/b", "val/a"], "Train/, train/: ambiguous"),
        (["train/a", "val/a", "Valid/a"], "Valid/, val/: ambiguous"),
        (["train/a", "test/a", "testing/a"], "test/, testing/: ambiguous"),
        (["val/a", "test/a"], "val/ without train/"),
        (["Valid/a"], "Valid/ without train/"),
        (["train", "bus", "car"], "train/ looks like a split of a data set, and bus/, car/ like a class"),
        (["valid", "invalid"], "if all are classes, put them into DIR/train/"),
        (["seg_train/a", "seg_test/a", "seg_pred"], "seg_test/, seg_train/ look like splits of a data set"),
        (["cats-Train", "cats-Val"], "cats-Train/, cats-Val/ look like splits of a data set"),
        (["cat", "dog", "Test"], "Test/ looks like a split of a data set, and cat/, dog/ like a class"),
        (["cat/train", "cat/val", "dog/train", "dog/val"], "class 'cat' is split into train/, val/"),
    ],
)
def test_what_can_be_taken_for_a_part_or_a_class_is_refused(tmp_path: Path, folders: list[str], words: str) -> None:
    fill(tmp_path, *folders)

    with pytest.raises(UsageError) as raised:
        load(tmp_path)

    assert words in str(raised.value)
    assert "use " in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("names", [("steam_train", "crash_test"), ("express train", "local train"), ("a", "device")])
def test_classes_whose_names_only_mention_a_part_are_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    assert load(fill(tmp_path, *names)).labels == tuple(sorted(names))


def test_below_the_parts_any_name_is_a_class(tmp_path: Path) -> None:
    data = load(fill(tmp_path, "train/train", "train/test", "val/train", "val/test"))

    assert data.labels == ("test", "train")
