"""CIFAR-10 and CIFAR-100 from their python archives (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

A batch is a pickle (resx.data.cifar_pickles) with `data`, UINT8 [N, 3072] (red, green, blue planes of 32x32), and
`labels` or `fine_labels`.

Damage to pixels cannot be seen in them, so a checksum has to hold: the published MD5s of the official archive and of
its files, or else gzip's. A `.tar` that is not packed has none, and is not read. A folder of files of which none is a
published one has none either; the data set says so.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from resx.data.cifar_pickles import text_of, unpickle
from resx.data.dataset import Checksum, DataSet, Split
from resx.data.digits import channel_statistics
from resx.errors import UsageError, reason_of
from resx.files.reading import MIB, read_bounded, read_to_limit, require_regular
from resx.zoo.spec import ImageFormat

_AGAIN = "download the archive again"
_MAX_UNPACKED_BYTES = 256 * MIB
"""The real archives unpack to 186 MB, in 8 and 3 files."""
_MAX_MEMBERS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """What one of the two archives holds, and the checksums that were published for it."""

    name: str
    folder: str
    """The folder inside the archive."""
    train: tuple[str, ...]
    held_out: str
    meta: str
    labels: str
    label_names: str
    max_file_bytes: int
    """A little more than the largest file of the real archive."""
    size_bytes: int
    """Of the official .tar.gz."""
    md5: str
    """Of the official .tar.gz, as published with it."""
    file_md5s: tuple[str, ...]
    """Of the files in `needed`, as torchvision checks them."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The files that are read."""
        return (*self.train, self.held_out, self.meta)


CIFAR10 = Archive(
    name="cifar10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    held_out="test_batch",
    meta="batches.meta",
    labels="labels",
    label_names="label_names",
    max_file_bytes=32 * MIB,
    size_bytes=170_498_071,
    md5="c58f30108f718f92721af3b95e74349a",
    file_md5s=(
        "c99cafc152244af753f735de768cd75f",
        "d4bba439e000b95fd0a9bffe97cbabec",
        "54ebc095f3ab1f0389bbae665268c751",
        "634d18415352ddfa80567beed471001a",
        "482c414d41f54cd18b22e5b47cb7c3cb",
        "40351d587109b95175f43aff81a1287e",
        "5ff9c542aee3614f3951f8cda6e48888",
    ),
)
CIFAR100 = Archive(
    name="cifar100",
    folder="cifar-100-python",
    train=("train",),
    held_out="test",
    meta="meta",
    labels="fine_labels",
    label_names="fine_label_names",
    max_file_bytes=160 * MIB,
    size_bytes=169_001_437,
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    file_md5s=(
        "16019d7e3df5f24257cddd939b257f8d",
        "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "7973b15100ade9c7d40fb424638fde48",
    ),
)


def load_cifar(path: Path, *, fine: bool) -> DataSet:
    """Read CIFAR-10, or with `fine` CIFAR-100, into memory; the test images are the held-out part.

    Args:
        path: the `.tar.gz`, the folder it unpacks to, or the folder that holds one of them.
        fine: CIFAR-100 with its 100 fine classes.

    Raises:
        UsageError: files are missing or damaged, or hold something else.
    """
    return load_archive(path, CIFAR100 if fine else CIFAR10)


def load_archive(path: Path, archive: Archive) -> DataSet:
    """Read an archive of this kind, as `load_cifar` does."""
    files, checksum = _read_files(path, archive)
    where = f"{path}: {archive.meta}"
    names = _sequence(unpickle(files[archive.meta], where).get(archive.label_names), where)
    if not all(isinstance(name, str | bytes) for name in names):
        raise UsageError(f"{where}: a class name is not text; {_AGAIN}")
    labels = tuple(text_of(name) for name in names)
    splits = {
        name: _split(files[name], f"{path}: {name}", archive, len(labels)) for name in files if name != archive.meta
    }
    images, targets = zip(*(splits[name] for name in archive.train), strict=True)
    train_images = np.concatenate(images)
    held_out_images, held_out_targets = splits[archive.held_out]
    mean, std = channel_statistics(train_images)
    return DataSet(
        name=archive.name,
        labels=labels,
        image=ImageFormat(image_size=32, resize=32, mean=mean, std=std),
        train=Split(images=train_images, targets=np.concatenate(targets)),
        held_out=Split(images=held_out_images, targets=held_out_targets),
        checksum=checksum,
        num_in_both=_num_in_both(train_images, held_out_images),
    )


def _read_files(path: Path, archive: Archive) -> tuple[dict[str, bytes], Checksum]:
    """Return the bytes of the archive's files by name, from wherever `path` has them, and which checksum held."""
    for folder in (path, path / archive.folder):
        if (folder / archive.held_out).is_file():
            return _read_folder(folder, archive)
    if not path.is_dir():
        return _read_archive(path, archive)
    if packed := sorted(path.glob("cifar-100-python*.tar.gz" if archive is CIFAR100 else "cifar-10-python*.tar.gz")):
        return _read_archive(packed[0], archive)
    raise _not_here(path, archive)


def _read_folder(folder: Path, archive: Archive) -> tuple[dict[str, bytes], Checksum]:
    if missing := [name for name in archive.needed if not (folder / name).exists()]:
        raise UsageError(f"{folder}: {', '.join(missing)} missing; unpack the archive again")
    files = {name: _read_file(folder / name, archive) for name in archive.needed}
    changed = [
        name
        for (name, content), published in zip(files.items(), archive.file_md5s, strict=True)
        if _md5(io.BytesIO(content)) != published
    ]
    if not changed:
        return files, "published"
    if len(changed) == len(files):
        return files, "none"
    raise UsageError(
        f"{folder}: {', '.join(changed)}: the MD5 differs from the official file's (damaged or modified); unpack the "
        "archive again, or pack your own version as a .tar.gz"
    )


def _read_file(path: Path, archive: Archive) -> bytes:
    try:
        return read_bounded(path, archive.max_file_bytes, remedy=_AGAIN)
    except OSError as error:
        raise UsageError(f"{path}: {reason_of(error)}; unpack the archive again") from error


def _read_archive(path: Path, archive: Archive) -> tuple[dict[str, bytes], Checksum]:
    """Read a .tar.gz to its end: gzip's checksum comes last, behind the tar's own end."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            checksum: Checksum = "gzip"
            if os.fstat(file.fileno()).st_size == archive.size_bytes:
                if _md5(file) != archive.md5:
                    raise UsageError(f"{path}: damaged: it has the official archive's size but not its MD5; {_AGAIN}")
                checksum = "published"
                file.seek(0)
            if file.read(2) != b"\x1f\x8b":
                raise UsageError(
                    f"{path}: not a .tar.gz, which alone has its own checksum; compress it with gzip, or {_AGAIN}"
                )
            file.seek(0)
            content = _Unpacked(file, path)
            found = _read_members(content, path, archive)
            while content.read(MIB):
                pass
    except FileNotFoundError:
        raise _not_here(path, archive) from None
    # A damaged header can end in any of these; tarfile reads chained ones by calling itself.
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path}: damaged, or not a .tar.gz ({str(error)[:200]}); {_AGAIN}") from error
    if missing := [name for name in archive.needed if name not in found]:
        raise UsageError(
            f"{path}: has no {', '.join(missing)} in {archive.folder}/; give the python version of the archive"
        )
    return found, checksum


def _read_members(content: _Unpacked, path: Path, archive: Archive) -> dict[str, bytes]:
    """Return what the archive's own folder holds of the files that are needed."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=content, mode="r:") as tar:
        for number, member in enumerate(tar):
            if number >= _MAX_MEMBERS:
                raise UsageError(f"{path}: more than {_MAX_MEMBERS} files, not a CIFAR archive; {_AGAIN}")
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            # A sparse file's size is not in the archive, so it is none of the real ones.
            if folder != archive.folder or name not in archive.needed or not member.isfile() or member.issparse():
                continue
            if name in found:
                raise UsageError(f"{path}: has {folder}/{name} twice; {_AGAIN}")
            inside = tar.extractfile(member)
            assert inside is not None
            found[name] = read_to_limit(
                inside, archive.max_file_bytes, f"{path}: {name}", size=member.size, remedy=_AGAIN
            )
    return found


def _not_here(path: Path, archive: Archive) -> UsageError:
    return UsageError(f"{path}: no {archive.name} here; give its python archive's .tar.gz or {archive.folder}/")


def _md5(file: io.BufferedReader | io.BytesIO) -> str:
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _Unpacked(io.BufferedIOBase):
    """An archive as it unpacks, up to a bound: tarfile reads a header's text whole, whatever size the header says."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = gzip.GzipFile(fileobj=file), path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes.

        Raises:
            UsageError: they are beyond what a CIFAR archive has.
        """
        wanted = _MAX_UNPACKED_BYTES + 1 if size is None or size < 0 else size
        self._require_within(self._file.tell() + wanted)
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; tarfile counts from the beginning."""
        self._require_within(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _require_within(self, end: int) -> None:
        if end > _MAX_UNPACKED_BYTES:
            raise UsageError(
                f"{self._path}: unpacks to more than {_MAX_UNPACKED_BYTES:,} bytes, not a CIFAR archive; {_AGAIN}"
            )


def _split(
    payload: bytes, where: str, archive: Archive, num_classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    batch = unpickle(payload, where)
    labels = _sequence(batch.get(archive.labels), where)
    images = getattr(batch.get("data"), "value", None)
    if images is None or images.shape != (len(labels), 3072):
        raise UsageError(f"{where}: `data` is not UINT8 [{len(labels)}, 3072]; {_AGAIN}")
    if not all(isinstance(label, int) and 0 <= label < num_classes for label in labels):
        raise UsageError(f"{where}: a label is not in 0..{num_classes - 1}; {_AGAIN}")
    return images.reshape(-1, 3, 32, 32).copy(), np.asarray(labels, dtype=np.int64)


def _sequence(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where}: has no labels: it is damaged, or the archive of the other CIFAR data set")
    return value


def _num_in_both(train_images: npt.NDArray[np.uint8], held_out_images: npt.NDArray[np.uint8]) -> int:
    """Count the held-out images that are trained on too, pixel for pixel."""
    places: dict[bytes, int] = {}
    for image in held_out_images:
        places[image.tobytes()] = places.get(image.tobytes(), 0) + 1
    return sum(places.pop(image.tobytes(), 0) for image in train_images)
