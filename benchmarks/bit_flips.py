"""Single bit flips in every archive format that is read: is one trained or calibrated on?

    python -m benchmarks.bit_flips [--flips 200] [--seed 0]

A small archive of each format is damaged in one random bit, again and again, and read. Of each flip's outcome:

    refused     one line says so
    unchanged   read, and every pixel, label and class is as before: a bit that no data are made of (the time in a gzip
                header), or another way to say the same (a match elsewhere in a row of zeros)
    changed     read, with other data: damage that is trained on

Stand-ins for the official archives have their own MD5s in the places of the published ones. Exit code 1 if one flip
is read as changed data, or ends in anything else than a refusal.

Formats without a checksum are not in the table, for nothing can be seen in them: an unpacked CIFAR folder that is not
the official one (`resx train` warns of it), JPEG, BMP, PPM and TIFF files, and safetensors.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import pickle
import random
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resx.card.signature import Signature
from resx.data.cifar import CIFAR10, CIFAR100, Archive, load_archive
from resx.data.dataset import DataSet
from resx.errors import UsageError
from resx.export.int8.calibration import load_calibration

_SIGNATURE = Signature(
    input_name="images", input_type="float32", input_dims=(3, 8, 8), output_name="logits", output_dims=(2,), resize=8
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """Something that can be read, in files."""

    name: str
    files: tuple[Path, ...]
    """One of them is damaged at a time."""
    read: Callable[[], str]
    """Gives the hash of all data that were read."""


def formats(folder: Path) -> list[Format]:
    """Write a small example of every format."""
    found = []
    for archive in (CIFAR10, CIFAR100):
        unpacked = _write_batches(folder / archive.name / archive.folder, archive)
        packed = folder / f"{archive.name}.tar.gz"
        with tarfile.open(packed, "w:gz") as tar:
            tar.add(unpacked, archive.folder)
        official = dataclasses.replace(
            archive,
            size_bytes=packed.stat().st_size,
            md5=_md5(packed.read_bytes()),
            file_md5s=tuple(_md5((unpacked / name).read_bytes()) for name in archive.needed),
        )
        files = tuple(unpacked / name for name in archive.needed)
        found += [
            Format(name=f"{archive.name} .tar.gz", files=(packed,), read=_reads(packed, archive)),
            Format(name=f"{archive.name} .tar.gz, official", files=(packed,), read=_reads(packed, official)),
            Format(name=f"{archive.name} folder, official", files=files, read=_reads(unpacked, official)),
        ]
    images = _pixels(24, 3, 8, 8)
    for name, write in (("stored", np.savez), ("compressed", np.savez_compressed)):
        path = folder / f"{name}.npz"
        write(path, images=images // 16)  # so that there is something to compress
        found.append(Format(name=f".npz, {name}", files=(path,), read=_calibrates(path)))
    return found


def flip_bits(form: Format, num_flips: int, seed: int) -> Counter[str]:
    """Damage and read a format so often; return how often each outcome came."""
    chance = random.Random(f"{seed} {form.name}")
    whole, outcomes = form.read(), Counter[str]()
    for _ in range(num_flips):
        path = chance.choice(form.files)
        bit = chance.randrange(8 * path.stat().st_size)
        with _flipped(path, bit):
            try:
                outcomes["unchanged" if form.read() == whole else "changed"] += 1
            except UsageError:
                outcomes["refused"] += 1
            except Exception as error:
                outcomes[f"{type(error).__name__} at bit {bit}"] += 1
    return outcomes


def is_harmless(outcomes: Counter[str]) -> bool:
    """Say whether nothing damaged was read, and every refusal was one."""
    return set(outcomes) <= {"refused", "unchanged"}


@contextlib.contextmanager
def _flipped(path: Path, bit: int) -> Iterator[None]:
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(content)


def _write_batches(folder: Path, archive: Archive) -> Path:
    folder.mkdir(parents=True)
    for seed, name in enumerate((*archive.train, archive.held_out)):
        batch = {archive.labels.encode(): [seed, 3, 5, 7], b"data": _pixels(4, 3072, seed=seed)}
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    names = [b"class-%d" % number for number in range(10)]
    (folder / archive.meta).write_bytes(pickle.dumps({archive.label_names.encode(): names}, 2))
    return folder


def _pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _reads(path: Path, archive: Archive) -> Callable[[], str]:
    return lambda: _hash_of(load_archive(path, archive))


def _hash_of(data: DataSet) -> str:
    digest = hashlib.sha256(repr(data.labels).encode())
    for split in (data.train, data.held_out):
        digest.update(split.images[:].tobytes() + split.targets.tobytes())
    return digest.hexdigest()


def _calibrates(path: Path) -> Callable[[], str]:
    return lambda: load_calibration(str(path), _SIGNATURE, num_images=24, seed=0, run=None).sha256


def _md5(content: bytes) -> str:
    return hashlib.file_digest(io.BytesIO(content), lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Flip bits, print the table, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description="Flip single bits in every archive format that is read.")
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    holds = True
    print(f"{'format':<28}{'flips':>7}{'refused':>9}{'unchanged':>11}{'changed':>9}")
    with tempfile.TemporaryDirectory(prefix="resx-flips-") as folder:
        for form in formats(Path(folder)):
            found = flip_bits(form, options.flips, options.seed)
            holds &= is_harmless(found)
            print(
                f"{form.name:<28}{found.total():>7}{found['refused']:>9}{found['unchanged']:>11}{found['changed']:>9}"
                + "".join(f"  {count} x {end}" for end, count in found.items() if " at bit " in end)
            )
    print("the bar holds: no damaged data were read" if holds else "MISSED: damaged data were read, or a traceback")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
