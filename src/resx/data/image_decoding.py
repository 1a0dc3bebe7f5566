"""From an image file to 8-bit RGB: the one decoder of resx.

Training, calibration, `resx query`, `resx predict` and `resx bench` read images here. The image endpoint's
model (`resx.serving.embedded.backends.preprocess`) runs inside the server and repeats it; a test compares their pixels.

- Every image becomes 8-bit RGB. Grey images get three equal channels, transparency is dropped.
- 16 bits a channel keep their high 8, as Pillow itself does it for RGB. Floats, signed and 32-bit integers are
  refused: nothing says which value is white.
- A rotation in the EXIF data is ignored, as torchvision's ImageFolder and timm ignore it.
- Of several frames or pages the first is taken.
- Sizes are judged by the header, before anything is decoded (`resx.files.reading` has the bounds). All threads together
hold
  as many pixels as one largest image has, so sixteen of those are decoded one after the other.

How an image is brought to a network's size: `resx.data.image_geometry`.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from resx.errors import UsageError
from resx.files.reading import FILE_MIB, MEGAPIXELS, MIB, Budget, ReadLimits, read_bounded, read_limits

_REMEDY = "give a PNG, JPEG or WebP file"
_COPY = "copy it again"
SMALLER_FILE = f"make it smaller, or raise --max-file-mib ({FILE_MIB})"
_FEWER_PIXELS = f"make it smaller, or raise --max-megapixels ({MEGAPIXELS})"
_PNG = b"\x89PNG\r\n\x1a\n"
_READ = {
    "PNG": re.escape(_PNG),
    "JPEG": rb"\xff\xd8\xff",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6f]\s",
}
_PILLOWS_NAMES = [kind.upper() for kind in _READ]
"""What Pillow may take a file for. Of all that it knows, EPS makes it start another program."""
_NOT_READ = {
    "AVIF": rb"....ftypavi[fs]", "HEIC": rb"....ftyp(hei|hev|mif1|msf1)", "JPEG XL": rb"\xff\n|....JXL ",
    "JPEG 2000": rb"....jP  |\xff\x4f\xff\x51", "Photoshop": rb"8BPS", "PDF": rb"%PDF", "PostScript": rb"%!PS",
    "ICO": rb"\0\0\x01\0", "SVG": rb"\s*<svg|\s*<\?xml.*<svg", "HTML": rb"(?i)\s*<(!doctype )?html",
    "PAM": rb"P7\s", "DICOM": rb".{128}DICM", "OpenEXR": rb"v/1\x01",
    "NumPy array": rb"\x93NUMPY", "ZIP": rb"PK\x03\x04", "Git LFS pointer": rb"version https://git-lfs",
}  # fmt: skip
_PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT, _TIFF_TILE = 258, 262, 339, (322, 323)
_DECODED = Budget(lambda: read_limits().pixels)
# In blocks of 16 MiB, Pillow's default, glibc keeps a large image's memory for its thread: with these it is given back
# (a second image of 64 megapixels: 1.2 GB at most instead of 1.8). It is what PILLOW_BLOCK_SIZE=64m sets.
Image.core.set_block_size(64 * MIB)  # type: ignore[attr-defined]


def load_image(path: Path) -> Image.Image:
    """Decode a file to 8-bit RGB, as the module says.

    Raises:
        UsageError: as `read_image_file` and `image_of`.
    """
    return image_of(read_image_file(path), path)


def read_image_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        UsageError: the file is missing, is no regular file, cannot be read, or is larger than an image's may be.
    """
    try:
        return read_bounded(path, read_limits().file_bytes, remedy=SMALLER_FILE)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder, not an image; {_REMEDY}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; give a readable file") from error


def image_of(content: bytes, name: object) -> Image.Image:
    """Decode a file's bytes to 8-bit RGB, as the module says.

    Raises:
        UsageError: as `open_image`.
    """
    with open_image(content, name) as image:
        return image


@contextlib.contextmanager
def open_image(content: bytes, name: object) -> Iterator[Image.Image]:
    """Decode a file's bytes to 8-bit RGB; as long as this lasts, its pixels count among those that threads may hold.

    Raises:
        UsageError: they are no image, damaged, too large, or pixels of unknown range; the message begins with the name.
    """
    with contextlib.ExitStack() as held:
        yield _decode(content, name, held)


def _decode(content: bytes, name: object, held: contextlib.ExitStack) -> Image.Image:
    """Decode a file when its pixels may be held; by itself, so that what Pillow needed meanwhile is gone at its end."""
    with _undecoded(content, name) as image:
        held.enter_context(_DECODED.hold(image.width * image.height))
        return _rgb(image, name)


def check_image_file(path: Path) -> None:
    """Check what a file's header says, without decoding it.

    Raises:
        UsageError: as `load_image`, but for pixels that are damaged.
    """
    with _undecoded(read_image_file(path), path):
        pass


@contextlib.contextmanager
def _undecoded(content: bytes, name: object) -> Iterator[Image.Image]:
    """Give an image of which the header alone was read; what Pillow raises meanwhile is one line."""
    if not content:
        raise UsageError(f"{name}: empty file (0 bytes); {_COPY}")
    limits = read_limits()
    if len(content) > limits.file_bytes:
        raise UsageError(f"{name}: file of {len(content):,} bytes: the limit is {limits.file_bytes:,}; {SMALLER_FILE}")
    if limits.pixels > ReadLimits().pixels:  # as the user asked; Pillow has a bound of its own
        Image.MAX_IMAGE_PIXELS = limits.pixels
    try:
        with (
            _PILLOWS_WARNINGS_OFF,
            Image.open(io.BytesIO(_without_metadata(content)), formats=_PILLOWS_NAMES) as image,
        ):
            _require_within(image, limits.pixels, name)
            yield image
    except (UsageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # Pillow's own bound, which is checked before ours
        raise _too_large(re.sub(r"\D*(\d+).*", r"\1", str(error)), limits.pixels, name) from error
    except Exception as error:  # Pillow's decoders raise many kinds for broken files
        raise UsageError(f"{name}: {_reason(content, error)}") from error


def _require_within(image: Image.Image, limit: int, name: object) -> None:
    """Check an image's size, and that of a TIFF's tiles: each is unpacked whole, however small the image is."""
    sizes = [image.size]
    if image.format == "TIFF":
        tile = tuple(image.tag_v2.get(tag, 0) for tag in _TIFF_TILE)  # type: ignore[attr-defined]
        sizes.append((int(tile[0]), int(tile[1])))
    for width, height in sizes:
        if width * height > limit:
            raise _too_large(f"{width} x {height}", limit, name)


def _rgb(image: Image.Image, name: object) -> Image.Image:
    """Return 8-bit RGB. Pillow's own conversion would clip grey of more than 8 bits to nearly white."""
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if {*tags.get(_TIFF_SAMPLE_FORMAT, (1,))} != {1} or (image.mode in ("I", "F") and not is_16_bit):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit integer"
        raise UsageError(
            f"{name}: the value range of {kind} pixels is unknown; save it with unsigned 8 or 16 bits per channel"
        )
    if is_16_bit:
        grey = (np.asarray(image) >> tags.get(_TIFF_BITS, (16,))[0] - 8).astype(np.uint8)
        is_inverted = tags.get(_TIFF_PHOTOMETRIC) == 0  # white is zero; Pillow minds it up to 8 bits only
        image = Image.fromarray(255 - grey if is_inverted else grey)
    return image.convert("RGB")


def _without_metadata(content: bytes) -> bytes:
    """Return a PNG without the chunks that its pixels do not need, any other file as it is.

    Pillow unpacks color profiles and texts, and refuses the image if they are large. Nothing here needs them.
    """
    if not content.startswith(_PNG):
        return content
    kept, start = [_PNG], len(_PNG)
    while start + 8 <= len(content):
        stop = start + 12 + int.from_bytes(content[start : start + 4], "big")  # length, name, data, checksum
        if content[start + 4 : start + 8] in _PNG_PIXEL_CHUNKS:
            kept.append(content[start:stop])
        start = stop
    return b"".join(kept)


def _too_large(what: str, limit: int, name: object) -> UsageError:
    return UsageError(f"{name}: image of {what} pixels: the limit is {limit:,}; {_FEWER_PIXELS}")


def _reason(content: bytes, error: Exception) -> str:
    """Return why Pillow could not decode a file, with the remedy."""
    kind = _kind(content, _READ)
    if not kind:
        other = _kind(content, _NOT_READ)
        return f"{other} is not supported; {_REMEDY}" if other else f"not an image; {_REMEDY}"
    is_cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    if kind == "PNG":
        is_cut |= _without_metadata(content)[-8:-4] != b"IEND"
    elif kind == "WebP":
        is_cut |= int.from_bytes(content[4:8], "little") + 8 > len(content)
    elif kind == "TIFF":  # its table of contents may come last
        is_cut |= int.from_bytes(content[4:8], "little" if content.startswith(b"II") else "big") >= len(content)
    if is_cut:
        return f"truncated {kind} file: it ends before its image does; {_COPY}"
    if kind == "TIFF" and isinstance(error, UnidentifiedImageError):
        return "TIFF file that is damaged or has a pixel type that is not supported; save it as an 8-bit PNG"
    return f"damaged {kind} file; {_COPY}"


def _kind(content: bytes, kinds: dict[str, bytes]) -> str:
    return next((kind for kind, pattern in kinds.items() if re.match(pattern, content[:1024], re.DOTALL)), "")


class _PillowsWarningsOff:
    """Ignores Pillow's warnings of odd metadata, in any number of threads at the same time.

    `warnings.catch_warnings` alone is not enough: if two threads leave it in the order in which they came, the
    filters of one stay for ever.
    """

    def __init__(self) -> None:
        self._lock, self._num_inside = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._num_inside += 1
            if self._num_inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                self._filters.__exit__(None, None, None)


_PILLOWS_WARNINGS_OFF = _PillowsWarningsOff()
