import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.data.dataset import DataSet
from resx.data.folder import FolderImages
from resx.data.loading import load_data
from resx.errors import UsageError
from resx.training.config import TrainingConfig
from resx.training.loop import TrainingRun, train
from resx.zoo.spec import read_spec
from tests.support.small_networks import small_spec


def fill(root: Path, classes: tuple[str, ...] = ("cat", "dog"), num: int = 10, blue: int = 0) -> Path:
    for shade, name in enumerate(classes, start=1):
        (root / name).mkdir(parents=True)
        for index in range(num):
            suffix = ("png", "jpg", "JPEG")[index % 3]
            Image.new("RGB", (24 + index, 20), (60 * shade, index, blue)).save(root / name / f"{index:02}.{suffix}")
    return root


def load(root: Path, **options: object) -> DataSet:
    return load_data(f"folder:{root}", image_size=16, **options)  # type: ignore[arg-type]


def names(data: DataSet) -> tuple[list[str], list[str]]:
    assert isinstance(data.train.images, FolderImages)
    assert isinstance(data.held_out.images, FolderImages)
    return [path.stem for path in data.train.images.paths], [path.stem for path in data.held_out.images.paths]


def test_one_folder_is_split_by_every_fifth_image_of_each_class(tmp_path: Path) -> None:
    data = load(fill(tmp_path))

    train_names, held_out_names = names(data)
    assert held_out_names == ["04", "09", "04", "09"]
    assert len(train_names) == 16
    assert data.labels == ("cat", "dog")
    assert data.held_out.targets.tolist() == [0, 0, 1, 1]


def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path / "train", num=3)
    fill(tmp_path / "val", num=2, blue=250)

    data = load(tmp_path)

    assert names(data) == (["00", "01", "02"] * 2, ["00", "01"] * 2)


def test_images_come_as_uint8_of_the_size_asked_for_and_of_the_class_they_are_in(tmp_path: Path) -> None:
    data = load(fill(tmp_path))

    images = data.train.images[np.array([0, 15, 3])]
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == np.uint8
    assert [int(image[0].mean()) // 60 for image in images] == [1, 2, 1]
    assert data.train.images[:5].shape == (5, 3, 16, 16)


def test_the_centre_is_cropped_after_the_shorter_side_is_resized(tmp_path: Path) -> None:
    fill(tmp_path)
    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = 255  # the middle third
    Image.fromarray(wide).save(tmp_path / "cat" / "00.png")

    image = load(tmp_path).train.images[:1][0]

    assert image[:, :, 3:-3].min() > 200


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path) -> None:
    data = load(fill(tmp_path))
    (tmp_path / "cat" / "00.png").write_bytes(b"gone bad since")

    data.train.images[1:4]
    with pytest.raises(UsageError, match=r"00\.png: not an image"):
        data.train.images[:1]


def test_grey_transparent_and_palette_images_become_rgb(tmp_path: Path) -> None:
    fill(tmp_path)
    for mode, name in (("L", "00.png"), ("RGBA", "03.png"), ("P", "06.png"), ("LA", "09.png")):
        Image.new(mode, (20, 20)).save(tmp_path / "cat" / name)

    assert load(tmp_path).train.images[:].shape == (16, 3, 16, 16)


def test_bad_images_are_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path)
    whole = (tmp_path / "dog" / "01.jpg").read_bytes()
    (tmp_path / "dog" / "01.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / "03.png").write_bytes(b"no image at all")

    with pytest.raises(UsageError, match=r"2 of 20 images cannot be read \(cat/03\.png, dog/01\.jpg\).*--skip-bad"):
        load(tmp_path)

    data = load(tmp_path, bad_images="skip")
    assert len(data.train) + len(data.held_out) == 18
    assert [Path(name).name for name in data.skipped] == ["03.png", "01.jpg"]
    data.train.images[:], data.held_out.images[:]


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_strip_that_would_take_gigabytes_at_the_training_size_is_a_bad_image(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    fill(tmp_path)
    Image.new("RGB", size).save(tmp_path / "cat" / "strip.png")

    with pytest.raises(UsageError, match=rf"1 of 21 .*\(cat/strip\.png\).*{size[0]} x {size[1]} pixels.*--skip-bad"):
        load_data(f"folder:{tmp_path}", image_size=224)

    assert [Path(name).name for name in load_data(f"folder:{tmp_path}", bad_images="skip").skipped] == ["strip.png"]
    with pytest.raises(UsageError, match=r"cat/strip\.png: image of .* too long and thin"):
        load_data(f"folder:{tmp_path}", bad_images="unchecked").train.images[:]


def test_16_bit_grey_is_trained_on_as_its_8_bit_copy_and_floats_are_bad_images(tmp_path: Path) -> None:
    fill(tmp_path)
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    Image.fromarray(ramp).save(tmp_path / "cat" / "00.png")
    Image.fromarray((ramp >> 8).astype(np.uint8)).save(tmp_path / "cat" / "03.png")
    data = load(tmp_path)
    assert np.array_equal(*data.train.images[np.array([0, 3])])

    Image.fromarray((ramp / 65535).astype(np.float32)).save(tmp_path / "cat" / "f.tif")
    with pytest.raises(
        UsageError, match=r"1 of 21 .*\(cat/f\.tif\); the first: the value range of floating-point pixels"
    ):
        load(tmp_path)


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no folder per class in it"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "cat").mkdir()
    with pytest.raises(UsageError, match="class 'cat' has no image; add some"):
        load(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"only one class \(cat\)"):
        load(fill(tmp_path / "one", ("cat",)))
    with pytest.raises(UsageError, match="too few images"):
        load(fill(tmp_path / "few", num=4))


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".heic", "has no image; skipped 40 .heic files: convert them to JPEG or PNG; add some"),
        (".AVIF", "has no image; skipped 40 .avif files: convert them to JPEG or PNG; add some"),
        (".txt", "has no image; skipped 40 non-image files (.txt); add some"),
    ],
)
def test_a_class_without_an_image_that_can_be_read_is_named(tmp_path: Path, suffix: str, words: str) -> None:
    fill(tmp_path)
    (tmp_path / "owl").mkdir()
    for number in range(40):
        (tmp_path / "owl" / f"{number}{suffix}").write_bytes(b"x")

    with pytest.raises(UsageError) as raised:
        load(tmp_path)

    assert f"class 'owl' {words}" in str(raised.value)


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "pjpeg"])
def test_every_suffix_of_jpeg_is_an_image(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path)
    for path in sorted((tmp_path / "cat").iterdir()):
        Image.open(path).convert("RGB").save(path.with_suffix(f".{suffix}"), "JPEG")
        path.unlink()

    data = load(tmp_path)

    assert (data.labels, len(data.train), data.others) == (("cat", "dog"), 16, {})


def test_what_is_skipped_is_counted_by_suffix_and_images_in_no_class_too(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in ("cat/1.heic", "cat/2.HEIC", "dog/x/3.jp2", "dog/notes.txt", "dog/none", "about.txt", "4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    data = load(tmp_path)

    assert data.others == {".heic": 2, ".jp2": 1, ".txt": 2, "": 1}
    assert data.remarks == [
        "Skipped 1 image in no class's folder: 4.png",
        "Skipped 3 non-image files (.txt, no suffix), 2 .heic files and 1 .jp2 file: convert them to JPEG or PNG",
    ]


def test_linked_subfolders_count_as_in_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = fill(tmp_path / "root")
    fill(tmp_path / "elsewhere", ("more",), blue=9)
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    for path in sorted(root.rglob("*.JPEG")):
        path.rename(path.with_suffix(".jpg"))

    data, theirs = load(root), ImageFolder(str(root))

    assert isinstance(data.train.images, FolderImages)
    assert isinstance(data.held_out.images, FolderImages)
    ours = sorted(
        (str(path), int(target))
        for split in (data.train, data.held_out)
        for path, target in zip(split.images.paths, split.targets, strict=True)  # type: ignore[attr-defined]
    )
    assert len(ours) == 30
    assert list(data.labels) == theirs.classes
    assert ours == sorted((path, target) for path, target in theirs.samples)


@pytest.mark.parametrize("place", ["train", "val"])
def test_a_class_of_which_no_image_can_be_read_is_refused_whatever_is_skipped(tmp_path: Path, place: str) -> None:
    fill(tmp_path / "train", num=2)
    fill(tmp_path / "val", num=2, blue=9)
    for path in sorted((tmp_path / place / "dog").iterdir()):
        path.write_bytes(path.read_bytes()[:40])

    with pytest.raises(UsageError, match=rf"class 'dog': none of its images can be read .*{place}/dog/00\.png: trunc"):
        load(tmp_path, bad_images="skip")


def test_classes_of_which_no_image_is_held_out_are_named(tmp_path: Path) -> None:
    fill(tmp_path, ("cat", "dog", "owl"))
    for path in sorted((tmp_path / "owl").iterdir())[3:]:
        path.unlink()

    data = load(tmp_path)

    assert data.not_held_out == ("owl",)
    assert data.remarks == [
        "warning: no held-out images for 1 class of 3 (owl): accuracy does not cover them; hold some out (val/, or 5 "
        "images per class)"
    ]


def test_different_classes_in_train_and_val_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", ("cat", "dog"))
    fill(tmp_path / "val", ("cat", "wolf"))

    with pytest.raises(UsageError, match=r"only train/ has dog and only val/ has wolf; both need the same classes"):
        load(tmp_path)


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train", (composed, "dog"))
    fill(tmp_path / "train", (decomposed,), num=3, blue=9)
    fill(tmp_path / "val", (decomposed, "dog"), num=2, blue=99)

    data = load(tmp_path)

    assert data.labels == (composed, "dog")
    assert np.bincount(data.train.targets).tolist() == [13, 10]
    assert np.bincount(data.held_out.targets).tolist() == [2, 2]


def test_hidden_folders_and_other_files_are_no_classes_and_no_images(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / ".cache").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / ".cache" / "x.png")
    (tmp_path / "cat" / "notes.txt").write_text("about cats")

    data = load(tmp_path)

    assert data.labels == ("cat", "dog")
    assert len(data.train) == 16


def test_apple_doubles_notebook_copies_and_archives_rests_are_skipped_and_counted(tmp_path: Path) -> None:
    plain = load(fill(tmp_path / "plain"))
    root = fill(tmp_path / ".hidden" / "images")
    (root / "cat" / "._00.png").write_bytes(b"\0\5\26\7" + bytes(4092))
    for folder in (root / "dog" / ".ipynb_checkpoints", root / "__MACOSX" / "cat", root / ".git"):
        folder.mkdir(parents=True)
        shutil.copy(root / "cat" / "00.png", folder / "x.png")

    data = load(root)

    assert names(data) == names(plain)
    assert (data.labels, data.hidden, data.copies) == (plain.labels, 4, ())
    assert data.remarks == ["Skipped 4 hidden files or folders"]


def test_an_image_that_is_held_out_too_is_not_trained_on(tmp_path: Path) -> None:
    root = fill(tmp_path)
    for copy in ("cat/x.png", "cat/y.txt.png"):
        shutil.copy(root / "cat" / "09.png", root / copy)  # the held-out one keeps its place
    (root / "dog" / "w.jpg").symlink_to(root / "dog" / "04.jpg")

    data = load(root)

    kept, held_out = names(data)
    assert held_out == ["04", "09", "04", "09"]
    assert not {"x", "y.txt", "w"} & set(kept)
    assert len(kept) == len(data.train.targets) == 16
    assert [Path(path).name for path in data.copies] == ["x.png", "y.txt.png", "w.jpg"]
    assert "Left 3 images out of training, of which a copy is held out" in data.remarks[0]


def test_copies_are_dropped_between_train_and_val_too_and_equal_sizes_are_no_copies(tmp_path: Path) -> None:
    fill(tmp_path / "train", num=4)
    fill(tmp_path / "val", num=3, blue=250)
    for name, content in (("u.ppm", b"1"), ("v.ppm", b"2")):
        (tmp_path / "train" / "cat" / name).write_bytes(b"P6 64 64 255\n" + content + bytes(64 * 64 * 3 - 1))
    shutil.copy(tmp_path / "train" / "cat" / "u.ppm", tmp_path / "val" / "dog" / "w.ppm")  # of another class at that

    data = load(tmp_path)

    kept, held_out = names(data)
    assert kept == ["00", "01", "02", "03", "v", "00", "01", "02", "03"]  # the same but for the first pixel
    assert held_out == ["00", "01", "02", "00", "01", "02", "w"]
    assert [Path(path).name for path in data.conflicting] == ["u.ppm", "w.ppm"]
    assert data.remarks[1].startswith("warning: 2 images with the same bytes as one of another class")


def test_copies_within_training_stay_and_those_of_two_classes_are_warned_of(tmp_path: Path) -> None:
    root = fill(tmp_path)
    shutil.copy(root / "cat" / "00.png", root / "cat" / "000.png")
    shutil.copy(root / "cat" / "01.jpg", root / "dog" / "z.jpg")

    data = load(root)

    assert data.copies == ()
    assert [Path(path).name for path in data.conflicting] == ["01.jpg", "z.jpg"]


def test_a_class_that_is_held_out_whole_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", num=3)
    fill(tmp_path / "val", num=3, blue=250)
    for name in ("00.png", "01.jpg", "02.JPEG"):
        shutil.copy(tmp_path / "train" / "dog" / name, tmp_path / "val" / "dog" / f"x{name}")

    with pytest.raises(UsageError, match=r"class dog is held out too, byte for byte \(3 of all 6 "):
        load(tmp_path)


def test_a_linked_class_folder_is_a_class_and_loops_of_links_end(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", ("dog",), num=10)
    root = fill(tmp_path / "root", ("cat",), num=10)
    (root / "puppy").symlink_to(tmp_path / "elsewhere" / "dog")
    for name in ("up", "again"):
        (root / "cat" / name).symlink_to(root / "cat")

    data = load(root)

    assert data.labels == ("cat", "puppy")
    assert (len(data.train), len(data.held_out)) == (16, 4)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nx", r"a\\nx"),
        ("a\tx", r"a\\tx"),
        ("a\u2028x", r"a\\u2028x"),
        ("a\x1b[31m", r"a\\x1b\[31m"),
        (os.fsdecode(b"caf\xe9"), r"caf\\xe9"),
    ],
)
def test_a_class_whose_name_cannot_be_a_label_is_refused(tmp_path: Path, name: str, shown: str) -> None:
    fill(tmp_path, ("cat", name))

    with pytest.raises(UsageError, match=f"class '{shown}': .* rename the folder"):
        load(tmp_path)


def test_a_run_made_before_with_such_a_class_is_refused_too(tmp_path: Path) -> None:
    labels = ("a\nx", *(f"c{number}" for number in range(1, small_spec("resnet").classes)))
    with pytest.raises(UsageError, match=r"label 'a\\nx'"):
        small_spec("resnet").with_changes(labels=labels)
    (tmp_path / "spec.json").write_text(small_spec("resnet").model_copy(update={"labels": labels}).model_dump_json())

    with pytest.raises(UsageError, match=r"spec\.json: label 'a\\nx': .*train again"):
        read_spec(tmp_path / "spec.json")


def test_a_network_learns_a_folder(tmp_path: Path) -> None:
    data = load(fill(tmp_path / "images"))
    spec = small_spec("resnet").with_changes(classes=2, labels=data.labels, image=data.image, survival=1.0)
    losses = []

    config = TrainingConfig(data=f"folder:{tmp_path / 'images'}", epochs=4, batch_size=4, flip=True)
    train(
        TrainingRun(spec=spec, data=data, config=config, folder=tmp_path / "run"),
        on_epoch=lambda entry: losses.append(entry["loss"]),
    )

    assert losses[-1] < losses[0]
