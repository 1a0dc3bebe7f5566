"""Archives as the real ones are laid out, with a handful of images."""

import dataclasses
import gzip
import hashlib
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from resx.data.cifar import CIFAR10, Archive, load_archive
from resx.data.loading import load_data
from resx.errors import UsageError
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from resx.training.runs.checkpoint import load_run_data
from tests.support.cifar_archives import cifar_pixels
from tests.support.small_networks import small_spec


def test_the_unpacked_archive_is_read_in_the_order_of_its_batches(cifar10: Path) -> None:
    data = load_data(f"cifar10:{cifar10}")

    assert data.train.images[:].shape == (20, 3, 32, 32)
    assert np.array_equal(data.train.images[4:8].reshape(4, -1), cifar_pixels(4, 2))
    assert data.train.targets.tolist()[3::4] == [1, 2, 3, 4, 5]
    assert data.held_out.targets.tolist() == [9, 8, 7]
    assert data.labels == tuple(f"name{number}" for number in range(10))
    pixels = data.train.images[:].astype(np.float64) / 255
    assert data.image.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert data.image.std == pytest.approx(pixels.std((0, 2, 3)))


def test_archive_folder_and_parent_are_the_same_data(cifar10: Path, packed: Path, tmp_path: Path) -> None:
    unpacked = load_data(f"cifar10:{cifar10}")

    for place in (packed, tmp_path):
        other = load_data(f"cifar10:{place}")
        assert np.array_equal(other.train.images[:], unpacked.train.images[:])
        assert np.array_equal(other.train.targets, unpacked.train.targets)


def test_a_folder_that_holds_only_the_packed_archive_is_enough(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    packed.rename(tmp_path / "only" / packed.name)

    assert len(load_data(f"cifar10:{tmp_path / 'only'}").train) == 20


def test_cifar100_has_its_fine_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, num in (("train", 6), ("test", 2)):
        batch = {b"data": cifar_pixels(num, num), b"fine_labels": [99] * num, b"coarse_labels": [1] * num}
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"f%d" % n for n in range(100)]}, 2))

    data = load_data(f"cifar100:{tmp_path}")

    assert len(data.labels) == 100
    assert data.train.targets.tolist() == [99] * 6


def test_a_network_trains_on_it(cifar10: Path, tmp_path: Path) -> None:
    data = load_data(f"cifar10:{cifar10}")
    spec = small_spec("resnet").with_changes(labels=data.labels, image=data.image)

    train(
        TrainingRun(
            spec=spec,
            data=data,
            config=configure(f"cifar10:{cifar10}", "he2015-cifar", {"epochs": 1, "batch_size": 8}),
            folder=tmp_path / "run",
        )
    )

    reloaded = load_run_data(tmp_path / "run")
    assert np.array_equal(reloaded.held_out.images[:], data.held_out.images[:])


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_truncated_archive_is_named(packed: Path, share: float) -> None:
    packed.write_bytes(packed.read_bytes()[: int(packed.stat().st_size * share)])

    with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz: "):
        load_data(f"cifar10:{packed}")


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_an_archive_without_the_end_of_its_checksum_is_refused(packed: Path, cut: int) -> None:
    packed.write_bytes(packed.read_bytes()[:-cut])

    with pytest.raises(UsageError, match=r"\.tar\.gz: damaged, or not a \.tar\.gz .*; download"):
        load_data(f"cifar10:{packed}")


@pytest.mark.parametrize("place", [-1, -5, -8])
def test_a_wrong_checksum_or_length_is_refused(packed: Path, place: int) -> None:
    content = bytearray(packed.read_bytes())
    content[place] ^= 1
    packed.write_bytes(content)

    with pytest.raises(UsageError, match=r"damaged, or not a \.tar\.gz"):
        load_data(f"cifar10:{packed}")


def test_damage_behind_the_tars_own_end_is_refused(packed: Path) -> None:
    content = gzip.decompress(packed.read_bytes())
    padded = bytearray(gzip.compress(content + bytes(100_000), 0))
    padded[-50_000] ^= 1  # stored as it is, and read by nobody but the checksum
    packed.write_bytes(padded)

    with pytest.raises(UsageError, match="CRC check failed"):
        load_data(f"cifar10:{packed}")


def test_a_tar_that_is_not_packed_has_no_checksum_and_is_refused(packed: Path) -> None:
    packed.write_bytes(gzip.decompress(packed.read_bytes()))

    with pytest.raises(UsageError, match=r"not a \.tar\.gz, which alone has its own checksum; compress it"):
        load_data(f"cifar10:{packed}")


@pytest.mark.parametrize("folder", ["old/cifar-10-batches-py", "cifar-10-batches-py/old", "other", ""])
def test_only_the_archives_own_folder_is_read(cifar10: Path, tmp_path: Path, folder: str) -> None:
    path = tmp_path / "c.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(cifar10 / "data_batch_1", f"{folder}/test_batch".lstrip("/"))
        tar.add(cifar10, "./cifar-10-batches-py")

    assert load_data(f"cifar10:{path}").held_out.targets.tolist() == [9, 8, 7]


def test_a_file_that_is_in_the_archive_twice_is_refused(cifar10: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        tar.add(cifar10, "cifar-10-batches-py")
        tar.add(cifar10 / "data_batch_1", "cifar-10-batches-py/test_batch")

    with pytest.raises(UsageError, match="has cifar-10-batches-py/test_batch twice"):
        load_data(f"cifar10:{tmp_path / 'c.tar.gz'}")


def official(folder: Path, packed: Path) -> Archive:
    """Return what would be said of these files if they had been published."""

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()

    return dataclasses.replace(
        CIFAR10,
        size_bytes=packed.stat().st_size,
        md5=md5(packed),
        file_md5s=tuple(md5(folder / name) for name in CIFAR10.needed),
    )


def test_the_published_checksums_are_compared_and_it_is_said(cifar10: Path, packed: Path) -> None:
    published = official(cifar10, packed)

    assert [load_archive(path, published).checksum for path in (packed, cifar10)] == ["published", "published"]
    assert "published MD5" in load_archive(packed, published).remarks[-1]
    assert load_archive(packed, CIFAR10).remarks[-1].startswith("Checksum: gzip's own (this is not the official")
    assert load_archive(cifar10, CIFAR10).remarks[-1].startswith("warning: no checksum: these are not the official")

    content = bytearray(packed.read_bytes())
    content[4] ^= 1  # the time in gzip's header, which its checksum says nothing of
    packed.write_bytes(content)
    with pytest.raises(UsageError, match="has the official archive's size but not its MD5"):
        load_archive(packed, published)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_one_changed_file_of_the_official_folder_is_refused(cifar10: Path, packed: Path, name: str) -> None:
    published = official(cifar10, packed)
    content = bytearray((cifar10 / name).read_bytes())
    content[len(content) // 2] ^= 4
    (cifar10 / name).write_bytes(content)

    with pytest.raises(UsageError, match=f"{name}: the MD5 differs from the official file"):
        load_archive(cifar10, published)


def test_held_out_images_that_are_trained_on_too_are_counted(cifar10: Path) -> None:
    (cifar10 / "test_batch").write_bytes((cifar10 / "data_batch_2").read_bytes())

    data = load_data(f"cifar10:{cifar10}")

    assert data.num_in_both == 4
    assert "warning: 4 held-out images are also in the training data, pixel for pixel" in data.remarks


def test_what_is_missing_is_named(cifar10: Path, tmp_path: Path) -> None:
    (cifar10 / "data_batch_2").unlink()
    with pytest.raises(UsageError, match="data_batch_2 missing"):
        load_data(f"cifar10:{cifar10}")
    with pytest.raises(UsageError, match=r"no cifar10 here; give .*cifar-10-batches-py"):
        load_data(f"cifar10:{tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match="no cifar100 here"):
        load_data(f"cifar100:{tmp_path}")


def archive(path: Path, *members: tuple[str, int, bytes, bytes]) -> Path:
    """Write a .tar.gz of raw headers: a name, the size that it claims, its kind and what follows."""
    with gzip.open(path, "wb", 1) as file:
        for name, size, kind, content in members:
            header = tarfile.TarInfo(name)
            header.size, header.type = size, kind
            file.write(header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        file.write(bytes(1024))
    return path


SIX_GIB, TOO_MUCH = 6 * 2**30, "unpacks to more than 268,435,456 bytes"
BOMBS = {
    "a member of 6 GiB": (
        [("cifar-10-batches-py/data_batch_1", SIX_GIB, tarfile.REGTYPE, b"")],
        "data_batch_1: file of 6,442,450,944 ",
    ),
    "another member of 6 GiB": (
        [("cifar-10-batches-py/readme", SIX_GIB, tarfile.REGTYPE, b"")],
        TOO_MUCH,
    ),
    "a name of 6 GiB": ([("x", SIX_GIB, tarfile.GNUTYPE_LONGNAME, b"")], TOO_MUCH),
    "metadata of 6 GiB": ([("x", SIX_GIB, tarfile.XHDTYPE, b"")], TOO_MUCH),
    "101 members": (
        [(f"cifar-10-batches-py/{n}", 0, tarfile.REGTYPE, b"") for n in range(101)],
        "more than 100 files",
    ),
    "a link": ([("cifar-10-batches-py/data_batch_1", 0, tarfile.SYMTYPE, b"")], "has no data_batch_1, "),
    "a pipe": ([("cifar-10-batches-py/data_batch_1", 0, tarfile.FIFOTYPE, b"")], "has no data_batch_1, "),
    "names of names": ([("x", 1, tarfile.GNUTYPE_LONGNAME, b"n")] * 3000, "damaged, or not a .tar.gz"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_archive_that_claims_gigabytes_is_refused_by_its_headers(tmp_path: Path, name: str) -> None:
    members, reason = BOMBS[name]
    path = archive(tmp_path / "c.tar.gz", *members)
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError) as raised:
        load_data(f"cifar10:{path}")
    assert str(raised.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(raised.value)


def test_a_sparse_member_is_none_of_the_real_ones(tmp_path: Path) -> None:
    sparse = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    sparse.pax_headers = {"GNU.sparse.size": str(SIX_GIB), "GNU.sparse.map": "0,0", "GNU.sparse.numblocks": "1"}
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(sparse)
    with pytest.raises(UsageError, match=r"c\.tar\.gz: has no data_batch_1"):
        load_data(f"cifar10:{tmp_path / 'c.tar.gz'}")


def test_a_file_of_the_unpacked_archive_is_bounded_and_regular(cifar10: Path) -> None:
    (cifar10 / "data_batch_4").unlink()
    os.mkfifo(cifar10 / "data_batch_4")
    with pytest.raises(UsageError, match=r"data_batch_4: a pipe, not a regular file"):
        load_data(f"cifar10:{cifar10}")
    (cifar10 / "data_batch_4").unlink()
    with (cifar10 / "data_batch_4").open("wb") as file:
        file.truncate(SIX_GIB)
    with pytest.raises(UsageError, match=r"data_batch_4: file of 6,442,450,944 bytes: the limit is 33,554,432"):
        load_data(f"cifar10:{cifar10}")
