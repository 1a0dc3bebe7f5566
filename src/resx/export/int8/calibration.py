"""The images that int8 is calibrated on, and the tables that are made of them.

    (nothing)   a run's own training images
    digits      the built-in handwritten digits' training part
    DIR         image files at any depth below a folder, hidden ones skipped, prepared as a query's are
    FILE.npz    one array UINT8 [N, 3, H, W] at the network's size
    random      noise: ranges that say nothing of real images; the card says so

A table holds each tensor's range. It depends on the fp32 file as it is quantized (which holds the weights, and
whose tensors differ between cpu and gpu), the images, the method and onnxruntime's version, and is kept in the
cache folder under the hash of all four.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resx.card.kinds import CalibrationMethod
from resx.card.signature import Signature
from resx.data.dataset import Images, pick_evenly
from resx.data.image_decoding import load_image
from resx.data.loading import load_data
from resx.errors import UsageError
from resx.files.listing import list_images
from resx.files.own_folders import cache_folder, make_cache_folder, require_own_cache
from resx.files.reading import MAX_ARRAY_BYTES, MIB, require_regular
from resx.files.staging import CACHED_FILE, sha256_of, write_atomic
from resx.text import printable
from resx.training.runs import checkpoint

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""Lowest and highest value of each tensor, by its name."""

REMEDY = (
    "give --calibrate digits, a folder of images or a .npz file of your data (or --calibrate random --no-verify, to "
    "measure speed only)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Images to find the ranges of activations on."""

    images: npt.NDArray[np.uint8]
    """[N, 3, H, W] at the network's size."""
    origin: str
    is_random: bool = False

    @property
    def sha256(self) -> str:
        """Of shape and bytes."""
        return hashlib.sha256(f"{self.images.shape}\n".encode() + self.images.tobytes()).hexdigest()


_FOLDER = "calibration"
"""Of the cache."""
_MAX_BYTES = 2**31
_HISTOGRAMS = "over the whole range"
"""Part of a table's key: earlier tables began histograms with the first batch's range."""


def load_calibration(text: str, signature: Signature, *, num_images: int, seed: int, run: Path | None) -> Calibration:
    """Load at most `num_images` images, spread evenly over what there is.

    Args:
        text: as in the module's table; empty for the run's own.
        signature: of the file that takes them.
        num_images: 512 are enough for ranges to settle.
        seed: of `random`.
        run: the run's folder; None for a source that has none.

    Raises:
        UsageError: there are no such images, or not of this shape, or each is of one color.
    """
    if num_images < 1:
        raise UsageError(f"--calibrate-images {num_images}: give 1 or more")
    if signature.resize is None:
        raise UsageError(
            f"--int8: calibrates on images, but the input {list(signature.input_dims)} is not an image; use --fp16"
        )
    if (num_bytes := num_images * math.prod(signature.input_dims)) > _MAX_BYTES:
        raise UsageError(
            f"--calibrate-images {num_images}: {num_bytes / 1e9:.1f} GB of pixels, where {_MAX_BYTES / 1e9:.1f} GB are "
            "the most; give fewer"
        )
    found = _load(text, signature, num_images=num_images, seed=seed, run=run)
    if found.images[0, 0].size > 1 and is_one_color(found.images).all():
        each = "the one image is" if len(found.images) == 1 else f"all {len(found.images)} images are"
        raise UsageError(
            f"--calibrate {text or found.origin}: {each} of one color, such as black frames, so no value range can be "
            "measured; use images like those the model will see"
        )
    return found


def is_one_color(images_NCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Say of each image [N] whether all its pixels are equal."""
    flat: npt.NDArray[np.bool_] = (images_NCHW == images_NCHW[:, :, :1, :1]).all((1, 2, 3))
    return flat


def _load(text: str, signature: Signature, *, num_images: int, seed: int, run: Path | None) -> Calibration:
    shape = signature.pixel_dims
    if text == "random":
        noise = np.random.default_rng(seed).integers(0, 256, size=(num_images, *shape), dtype=np.uint8)
        return Calibration(images=noise, origin=f"random noise (seed {seed})", is_random=True)
    if not text or text == "digits":
        return _of_data_set(text, shape, num_images=num_images, run=run)
    path = Path(text)
    if path.is_dir():
        return _from_folder(path, signature, num_images)
    if path.suffix == ".npz":
        return Calibration(images=_from_npz(path, shape, num_images), origin=str(path))
    raise UsageError(f"--calibrate {text}: neither a folder nor a .npz file; {REMEDY}")


def require_data(text: str, *, has_own_data: bool) -> None:
    """Check that there is something to calibrate on, before anything is built.

    Raises:
        UsageError: the source has no data of its own and none were named.
    """
    if not text and not has_own_data:
        raise UsageError(f"--int8 calibrates on real images, and a variant comes without data; {REMEDY}")


def table_key(model_file: Path, calibration: Calibration, method: CalibrationMethod) -> str:
    """Return the name of the table: equal for equal weights, form, images, method and onnxruntime."""
    parts = (sha256_of(model_file), calibration.sha256, method, _runtime_version(), _HISTOGRAMS)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_kept_table(key: str) -> Ranges | None:
    """Return the table of an earlier export; None if there is none that can be read."""
    path = cache_folder(_FOLDER) / f"{key}.json"
    require_own_cache(path)
    try:
        stored = json.loads(path.read_text())
        return {str(name): (float(low), float(high)) for name, (low, high) in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None  # made anew, like one that never was


def keep_table(key: str, ranges: Ranges) -> None:
    """Keep a table for later exports."""
    path = make_cache_folder(_FOLDER) / f"{key}.json"
    text = json.dumps({name: list(ranges[name]) for name in sorted(ranges)}) + "\n"
    write_atomic(path, text, mode=CACHED_FILE)


def _runtime_version() -> str:
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _of_data_set(text: str, shape: tuple[int, ...], *, num_images: int, run: Path | None) -> Calibration:
    if text == "digits":
        if shape[1] != shape[2]:
            raise UsageError(f"--calibrate digits: the digits are square, but the input is {list(shape)}; {REMEDY}")
        data = load_data("digits", image_size=shape[1])
    elif run is None:
        raise UsageError(f"--int8 calibrates on real images; {REMEDY}")
    else:
        try:
            data = checkpoint.load_run_data(run)
        except UsageError as error:
            raise UsageError(f"{run}: its training data cannot be loaded ({error}); {REMEDY}") from error
    chosen = _choose(data.train.images, num_images)
    return Calibration(images=chosen, origin=f"training images of {data.name}")


def _choose(images: Images, num_images: int) -> npt.NDArray[np.uint8]:
    return images[pick_evenly(len(images), num_images)]


def _from_folder(folder: Path, signature: Signature, num_images: int) -> Calibration:
    listed = list_images(folder)
    paths, skipped = listed.paths, f"; skipped {listed.skipped}" if listed.skipped else ""
    if not paths:
        raise UsageError(f"--calibrate {folder}: contains no images (PNG, JPEG, WebP, ...){skipped}; {REMEDY}")
    chosen = [paths[index] for index in pick_evenly(len(paths), num_images)]
    images = np.stack([signature.take(load_image(path), path) for path in chosen])
    return Calibration(images=images, origin=f"images of {printable(str(folder))}{skipped}")


def _require_small(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Check what an array unpacks to, before numpy makes room for it."""
    size = max(entry.file_size for entry in archive.infolist() if entry.filename in (name, f"{name}.npy"))
    if size > MAX_ARRAY_BYTES:
        raise UsageError(
            f"--calibrate {path}: unpacks to {size:,} bytes: the limit is {MAX_ARRAY_BYTES:,}; give fewer images"
        )


def _require_checksum(archive: zipfile.ZipFile, name: str) -> None:
    """Read an array to its end, where zip's checksum is compared: numpy reads what the array's header asks for.

    Raises:
        zipfile.BadZipFile: it does not hold.
    """
    names = {entry.filename for entry in archive.infolist()}
    with archive.open(name if name in names else f"{name}.npy") as inside:
        while inside.read(MIB):
            pass


def _from_npz(path: Path, shape: tuple[int, ...], num_images: int) -> npt.NDArray[np.uint8]:
    try:
        require_regular(path)
        with np.load(path, allow_pickle=False) as file:
            names = list(file.files)
            if len(names) != 1 and "images" not in names:
                raise UsageError(f"--calibrate {path}: holds {names}; give one array, or one named `images`")
            wanted = "images" if "images" in names else names[0]
            _require_small(file.zip, wanted, path)
            _require_checksum(file.zip, wanted)
            images = file[wanted]
    except FileNotFoundError:
        raise UsageError(f"--calibrate {path}: no such file; {REMEDY}") from None
    # A header may claim a shape that no memory holds, or a compression that zipfile lacks (NotImplementedError, a
    # RuntimeError).
    except (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"--calibrate {path}: not a .npz file that numpy can read; write it with numpy.savez"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise UsageError(
            f"--calibrate {path}: {images.dtype} {list(images.shape)}; give uint8 [N, {', '.join(map(str, shape))}], "
            "the pixels before normalisation"
        )
    chosen: npt.NDArray[np.uint8] = images[pick_evenly(len(images), num_images)]
    return chosen
