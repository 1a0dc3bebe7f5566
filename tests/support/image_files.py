"""Image files, byte by byte where Pillow writes no such thing."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
RAMP_16_BIT = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
RAMP = np.repeat((RAMP_16_BIT >> 8).astype(np.uint8)[..., None], 3, axis=2)
"""What RAMP_16_BIT is in 8-bit RGB."""


def encoded(file_format: str, image: Image.Image | npt.NDArray[Any] = NOISE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    pixels: npt.NDArray[Any] = NOISE, *, color: int = 2, bits: int = 8, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of color type 0 (grey), 2 (RGB), 4 (grey, alpha) or 6 (RGBA), with more chunks around its pixels."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if bits == 16 else np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", packed) + after + chunk(b"IEND", b"")


def pgm(maxval: int, *, plain: bool = False) -> bytes:
    values = (RAMP_16_BIT / 65535 * maxval).round().astype(np.int64)
    data = b" ".join(b"%d" % value for value in values.ravel()) if plain else values.astype(">u2").tobytes()
    return b"%s %d %d %d\n" % (b"P2" if plain else b"P5", *values.shape[::-1], maxval) + data


def tiff(
    pixels: npt.NDArray[Any], *, bits: int, white_is_zero: bool = False, sample_format: int = 1, packed: bytes = b""
) -> bytes:
    """An uncompressed grey TIFF; sample formats are 1 (unsigned), 2 (signed) and 3 (floating point)."""
    height, width = pixels.shape
    data = packed or pixels.tobytes()
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, int(not white_is_zero)), (273, 8), (277, 1),
        (278, height), (279, len(data)), (339, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def packed_12_bit() -> bytes:
    """RAMP_16_BIT's high 12 bits, two pixels in three bytes."""
    pairs = (RAMP_16_BIT >> 4).reshape(-1, 2).astype(int)
    return b"".join(bytes([one >> 4, (one & 15) << 4 | other >> 8, other & 255]) for one, other in pairs.tolist())


def turned(file_format: str) -> bytes:
    """NOISE, with an EXIF that asks for a turn by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(file_format, exif=exif)


def frames(file_format: str) -> bytes:
    """NOISE, then a black and a white frame."""
    others = [Image.new("RGB", (30, 20), color) for color in ("black", "white")]
    return encoded(file_format, save_all=True, append_images=others)


LONG_TEXT = bytes(3_000_000)
METADATA = {
    "a profile": encoded("PNG", icc_profile=LONG_TEXT),
    "a text": png(before=chunk(b"tEXt", b"key\0" + b"a" * 5_000_000)),
    "texts after the pixels": png(after=chunk(b"tEXt", b"key\0" + b"a" * 10_000_000) * 2),
    "a compressed text": png(before=chunk(b"zTXt", b"key\0\0" + zlib.compress(LONG_TEXT))),
    "an international text": png(after=chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(LONG_TEXT))),
    "broken EXIF": png(before=chunk(b"eXIf", b"MM\0*broken")),
    "a text with a wrong checksum": png(before=chunk(b"tEXt", b"key\0text")[:-1] + b"x"),
}
"""PNGs whose pixels are NOISE."""


def write_images(folder: Path, num_images: int, *, seed: int = 0) -> Path:
    """Write small JPEGs of noise, below two folders."""
    random = np.random.default_rng(seed)
    for number in range(num_images):
        path = folder / f"{number % 2}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder
