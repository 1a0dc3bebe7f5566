"""CIFAR-10 and CIFAR-100 from their python archives (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

The archives hold pickles. A pickle is a program, so they are read by an unpickler that knows nothing but
numbers, strings, lists, dictionaries and UINT8 arrays, and refuses the file at the first other thing.

A batch holds `data`, UINT8 [N, 3072] (red, green, blue planes of 32x32), and `labels` or `fine_labels`.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from resx.errors import UsageError
from resx.reading import MIB, read_bounded, read_to_limit, require_regular
from resx.training.data import DataSet, Split, channel_statistics
from resx.zoo.spec import ImageFormat

_AGAIN = "download the archive again"
_MAX_UNPACKED_BYTES = 256 * MIB
"""The real archives unpack to 186 MB, in 8 and 3 files."""
_MAX_MEMBERS = 100
_MAX_OPCODES = 1_000_000
"""CIFAR-100's training file has 300,000; each may make an object of 200 bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Archive:
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


_CIFAR10 = _Archive(
    name="cifar10", folder="cifar-10-batches-py", train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    held_out="test_batch", meta="batches.meta", labels="labels", label_names="label_names",
    max_file_bytes=32 * MIB,
)  # fmt: skip
_CIFAR100 = _Archive(
    name="cifar100", folder="cifar-100-python", train=("train",),
    held_out="test", meta="meta", labels="fine_labels", label_names="fine_label_names",
    max_file_bytes=160 * MIB,
)  # fmt: skip


def load_cifar(path: Path, *, fine: bool) -> DataSet:
    """Read CIFAR-10, or with `fine` CIFAR-100, into memory; the test images are the held-out part.

    Args:
        path: the `.tar.gz`, the folder it unpacks to, or the folder that holds one of them.
        fine: CIFAR-100 with its 100 fine classes.

    Raises:
        UsageError: files are missing or damaged, or hold something else.
    """
    archive = _CIFAR100 if fine else _CIFAR10
    files = _read_files(path, archive)
    meta = _unpickled(files[archive.meta], f"{path}: {archive.meta}")
    labels = tuple(_text(name) for name in _sequence(meta.get(archive.label_names), f"{path}: {archive.meta}"))
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
    )


def _read_files(path: Path, archive: _Archive) -> dict[str, bytes]:
    """Return the bytes of the archive's files by name, from wherever `path` has them."""
    needed = (*archive.train, archive.held_out, archive.meta)
    for folder in (path, path / archive.folder):
        if (folder / archive.held_out).is_file():
            if missing := [name for name in needed if not (folder / name).exists()]:
                raise UsageError(f"{folder}: {', '.join(missing)} missing; unpack the archive again")
            return {name: _read_file(folder / name, archive) for name in needed}
    if not path.is_dir():
        return _read_tar(path, needed, archive)
    if packed := sorted(path.glob("cifar-100-python*.tar.gz" if archive is _CIFAR100 else "cifar-10-python*.tar.gz")):
        return _read_tar(packed[0], needed, archive)
    raise UsageError(f"{path}: no {archive.name} here; give its python archive's .tar.gz or {archive.folder}/")


def _read_file(path: Path, archive: _Archive) -> bytes:
    try:
        return read_bounded(path, archive.max_file_bytes, remedy=_AGAIN)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}; unpack the archive again") from error


def _read_tar(path: Path, needed: Sequence[str], archive: _Archive) -> dict[str, bytes]:
    """Read the files out of the archive; nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        require_regular(path)
        with path.open("rb") as file, _Unpacked(file, path) as content, tarfile.open(fileobj=content, mode="r:") as tar:
            for number, member in enumerate(tar):
                if number >= _MAX_MEMBERS:
                    raise UsageError(f"{path}: more than {_MAX_MEMBERS} files in it, no CIFAR archive; {_AGAIN}")
                name = member.name.rpartition("/")[2]
                # A sparse file's size is not in the archive, so it is none of the real ones.
                if member.isfile() and not member.issparse() and name in needed and name not in found:
                    inside = tar.extractfile(member)
                    assert inside is not None
                    found[name] = read_to_limit(
                        inside, archive.max_file_bytes, f"{path}: {name}", size=member.size, remedy=_AGAIN
                    )
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no {archive.name} here; give its python archive's .tar.gz or {archive.folder}/"
        ) from None
    # A damaged header can end in any of these; tarfile reads chained ones by calling itself.
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path}: damaged, or not a .tar.gz ({str(error)[:200]}); {_AGAIN}") from error
    if missing := [name for name in needed if name not in found]:
        raise UsageError(f"{path}: has no {', '.join(missing)}; give the python version of the archive")
    return found


class _Unpacked(io.BufferedIOBase):
    """An archive as it unpacks, up to a bound: tarfile reads a header's text whole, whatever size the header says."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        self._file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file) if is_packed else file
        self._path = path

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
                f"{self._path}: unpacks to more than {_MAX_UNPACKED_BYTES:,} bytes, no CIFAR archive; {_AGAIN}"
            )


def _split(
    payload: bytes, where: str, archive: _Archive, num_classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    batch = _unpickled(payload, where)
    labels = _sequence(batch.get(archive.labels), where)
    images = getattr(batch.get("data"), "value", None)
    if images is None or images.shape != (len(labels), 3072):
        raise UsageError(f"{where}: `data` is not UINT8 [{len(labels)}, 3072]; download the archive again")
    if not all(isinstance(label, int) and 0 <= label < num_classes for label in labels):
        raise UsageError(f"{where}: a label is not in 0..{num_classes - 1}; download the archive again")
    return images.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)


def _sequence(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where}: lacks its labels; is it CIFAR's other archive, or damaged?")
    return value


def _unpickled(payload: bytes, where: str) -> dict[str, Any]:
    """Return a pickled dictionary of plain values; its keys as text, for the archives were written by Python 2."""
    try:
        _require_small(payload)
        value = _PlainUnpickler(io.BytesIO(payload), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise UsageError(f"{where}: {error}; download the archive again") from error
    # A damaged pickle can fail in any of these ways, and in no other that can be told from our mistakes.
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError, OverflowError) as error:
        raise UsageError(f"{where}: damaged ({type(error).__name__}: {error}); download the archive again") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: holds no dictionary; download the archive again")
    return {_text(key): item for key, item in value.items()}


def _require_small(payload: bytes) -> None:
    """Check that a pickle makes no more objects than an archive's does: an empty set is one byte here, 200 in memory.

    Raises:
        pickle.UnpicklingError: it does, or it would have the table of its objects grown to gigabytes.
        ValueError: it is damaged.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(payload))):
        is_far = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > _MAX_OPCODES
        if number >= _MAX_OPCODES or is_far:
            raise pickle.UnpicklingError(f"holds more than {_MAX_OPCODES:,} objects, which no CIFAR archive does")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Dtype:
    """Stands in for `numpy.dtype`: only UINT8 is known, whose byte order, the state, means nothing."""

    def __init__(self, code: object, *_flags: object) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"holds an array of {code!r}")

    def __setstate__(self, _state: object) -> None:
        pass


class _Array:
    """Stands in for `numpy.ndarray`, so that no state from the file reaches numpy's own unpickling."""

    value: npt.NDArray[np.uint8]

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, tuple(shape), _Dtype(), False, bytes(payload)):
                self.value = np.frombuffer(payload, dtype=np.uint8).reshape(shape).copy()
            case _:
                raise pickle.UnpicklingError("holds an unusual array")


def _new_array(kind: object, _shape: object, _typecode: object) -> _Array:
    """Stand in for numpy's `_reconstruct`: an array, filled by the state that follows in the pickle."""
    if kind is not _Array:
        raise pickle.UnpicklingError("holds an unusual array")
    return _Array()


def _latin1(text: object, encoding: object) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes in old protocols."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("holds an unusual encoding")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


_ALLOWED: dict[tuple[str, str], type | Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _empty_bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows numbers, strings, bytes, lists, dictionaries and arrays of UINT8; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"wants {module}.{name}, which no CIFAR archive needs") from None
