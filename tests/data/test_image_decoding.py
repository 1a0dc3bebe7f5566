"""The one decoder: what becomes of every kind of image, and the sentence for each that is refused."""

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from resx.data.image_decoding import image_of, load_image, open_image
from resx.data.image_geometry import pixels, resized_size
from resx.errors import UsageError
from tests.support.image_files import (
    METADATA,
    NOISE,
    RAMP,
    RAMP_16_BIT,
    chunk,
    encoded,
    frames,
    packed_12_bit,
    pgm,
    png,
    tiff,
    turned,
)


def decoded(content: bytes) -> npt.NDArray[np.uint8]:
    image = image_of(content, "x")
    assert image.mode == "RGB"
    return np.asarray(image)


SIXTEEN_BIT = {
    "png": png(RAMP_16_BIT, color=0, bits=16), "pgm": pgm(65535), "pgm of 10 bits": pgm(1023),
    "pgm of 12 bits": pgm(4095), "plain pgm": pgm(65535, plain=True), "plain pgm of 9 bits": pgm(511, plain=True),
    "tiff": encoded("TIFF", RAMP_16_BIT), "lzw tiff": encoded("TIFF", RAMP_16_BIT, compression="tiff_lzw"),
    "big-endian tiff": encoded("TIFF", Image.frombytes("I;16B", (256, 4), RAMP_16_BIT.astype(">u2").tobytes())),
    "tiff of 12 bits": tiff(RAMP_16_BIT, bits=12, packed=packed_12_bit()),
}  # fmt: skip


@pytest.mark.parametrize("name", SIXTEEN_BIT)
def test_grey_of_more_than_8_bits_is_what_its_8_bit_copy_is(name: str) -> None:
    assert np.array_equal(decoded(SIXTEEN_BIT[name]), RAMP)


def test_a_tiff_in_which_white_is_zero_is_not_inverted_at_16_bits_either() -> None:
    negative = tiff(RAMP_16_BIT, bits=16, white_is_zero=True)
    assert np.array_equal(decoded(negative), 255 - RAMP)
    assert np.array_equal(decoded(tiff(RAMP[..., 0].copy(), bits=8, white_is_zero=True)), 255 - RAMP)


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_color_and_transparency_keep_the_high_bytes(color: int, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (6, 8, channels), dtype=np.uint16)
    high = (values >> 8).astype(np.uint8)
    expected = high[..., :3] if channels >= 3 else np.repeat(high[..., :1], 3, axis=2)
    assert np.array_equal(decoded(png(values, color=color, bits=16)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_other_mode_is_what_pillow_converts_it_to(mode: str) -> None:
    image = Image.fromarray(NOISE).convert("P" if mode == "PA" else mode).convert(mode)
    actual = decoded(encoded("TIFF", image)).astype(int)
    assert np.abs(actual - np.asarray(image.convert("RGB"))).max() <= (8 if mode == "YCbCr" else 0)


UNKNOWN_RANGE = {
    "float.tif": (encoded("TIFF", (RAMP_16_BIT / 65535).astype(np.float32)), "floating-point"),
    "float.pfm": (b"Pf\n8 8\n-1.0\n" + bytes(256), "floating-point"),
    "int32.tif": (encoded("TIFF", RAMP_16_BIT.astype(np.int32)), "32-bit"),
    "uint32.tif": (tiff(RAMP_16_BIT.astype(np.uint32), bits=32), "32-bit"),
    "int16.tif": (tiff(RAMP_16_BIT, bits=16, sample_format=2), "signed"),
    "int8.tif": (tiff(RAMP[..., 0].copy(), bits=8, sample_format=2), "signed"),
}


@pytest.mark.parametrize("name", UNKNOWN_RANGE)
def test_pixels_whose_range_nobody_knows_are_refused_by_name(name: str) -> None:
    content, kind = UNKNOWN_RANGE[name]
    with pytest.raises(UsageError, match=rf"^{name}: the value range of .*{kind}.* pixels is unknown; .* 16 bits"):
        image_of(content, name)


@pytest.mark.parametrize("name", METADATA)
def test_an_intact_png_is_decoded_however_much_is_said_beside_its_pixels(name: str) -> None:
    assert np.array_equal(decoded(METADATA[name]), NOISE)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_bomb_in_a_text_or_profile_is_never_unpacked(kind: bytes) -> None:
    content = png(before=chunk(kind, b"key\0\0" + zlib.compress(bytes(200_000_000), 9)))
    tracemalloc.start()
    try:
        assert np.array_equal(decoded(content), NOISE)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_profiles_and_exif_change_no_pixel(file_format: str) -> None:
    expected = decoded(encoded(file_format))
    assert np.array_equal(decoded(encoded(file_format, icc_profile=bytes(2_000_000))), expected)
    assert np.array_equal(decoded(encoded(file_format, exif=b"Exif\0\0" + b"broken" * 9000)), expected)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_rotation_in_exif_is_treated_as_torchvisions_image_folder_treats_it(tmp_path: Path, file_format: str) -> None:
    from torchvision.datasets.folder import default_loader

    path = tmp_path / "turned"
    path.write_bytes(turned(file_format))
    ours = load_image(path)
    assert np.array_equal(np.asarray(ours), np.asarray(default_loader(path)))
    # Pillow itself turns a TIFF, for torchvision as for us.
    assert ours.size == ((20, 30) if file_format == "TIFF" else (30, 20))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_taken(file_format: str) -> None:
    assert np.abs(decoded(frames(file_format)).astype(int).mean((0, 1)) - NOISE.mean((0, 1))).max() < 5


REFUSED = {
    "empty": (b"", "empty file (0 bytes); copy it again"),
    "text": (b"hello, world", "not an image; give a PNG, JPEG or WebP file"),
    "zeros": (bytes(1000), "not an image;"),
    "AppleDouble": (b"\0\5\26\7" + bytes(4092), "not an image;"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(30), "HEIC is not supported; give a PNG, JPEG or WebP file"),
    "avif": (b"\0\0\0\x20ftypavif" + bytes(30), "AVIF is not supported;"),
    "svg": (b'<?xml version="1.0"?>\n<svg/>', "SVG is not supported;"),
    "pdf": (b"%PDF-1.7\n", "PDF is not supported;"),
    "text that begins as a BMP": (b"BMW, a car", "not an image;"),
    "dicom": (bytes(128) + b"DICM", "DICOM is not supported;"),
    "ico": (encoded("ICO"), "ICO is not supported;"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer is not supported;"),
    "png, half": (encoded("PNG")[:900], "truncated PNG file: it ends before its image does; copy it again"),
    "png, its start": (encoded("PNG")[:20], "truncated PNG file"),
    "jpeg, half": (encoded("JPEG")[:700], "truncated JPEG file"),
    "webp, half": (encoded("WEBP")[:400], "truncated WebP file"),
    "webp, its start": (encoded("WEBP")[:20], "truncated WebP file"),
    "gif, half": (encoded("GIF")[:900], "truncated GIF file"),
    "bmp, half": (encoded("BMP")[:900], "truncated BMP file"),
    "tiff, half": (encoded("TIFF", compression="tiff_lzw")[:900], "truncated TIFF file"),
    "ppm, half": (encoded("PPM")[:900], "truncated PPM file"),
    "png, damaged": (encoded("PNG").replace(b"IDATx", b"IDATy", 1), "damaged PNG file; copy it again"),
    "jpeg, damaged": (b"\xff\xd8\xff\xd9", "damaged JPEG file"),
    "no pixels": (b"P5 0 5 255\n", "damaged PPM file"),
    "tiff of 64-bit floats": (
        tiff(RAMP_16_BIT / 65535, bits=64, sample_format=3),
        "TIFF file that is damaged or has a pixel type",
    ),
    "bomb": (encoded("PNG", Image.new("1", (9500, 9500))), "image of 9500 x 9500 pixels: the limit is 64,000,000"),
    "larger bomb": (b"P5 20000 20000 255\n", "image of 400000000 pixels: the limit is 64,000,000; make it smaller"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_says_what_is_wrong_with_the_file(name: str) -> None:
    content, reason = REFUSED[name]
    with pytest.raises(UsageError) as raised:
        image_of(content, "folder/x.png")
    assert str(raised.value).startswith(f"folder/x.png: {reason}")
    assert "\n" not in str(raised.value)


def test_what_is_no_regular_file_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
    monkeypatch.setenv("RESX_MAX_FILE_MIB", "1")
    for path, reason in (
        (tmp_path, "a folder, not an image"),
        (tmp_path / "pipe.png", "a pipe, not a regular file; give a file"),
        (Path("/dev/zero"), "a device, not a regular file"),
        (tmp_path / "none.png", "no such file"),
        (tmp_path / ("x" * 300), "name too long; give a readable file"),
        (tmp_path / "large.png", "file of 1,048,577 bytes: the limit is 1,048,576; make it smaller, or raise --max"),
    ):
        with pytest.raises(UsageError, match=reason) as raised:
            load_image(path)
        assert str(raised.value).startswith(f"{path}: ")


def test_pillows_warnings_stay_silent_in_any_number_of_threads() -> None:
    bomb, jpeg = REFUSED["bomb"][0], encoded("JPEG")
    odd = jpeg[:2] + b"\xff\xe2\x00\x1eMPF\0MM\0*\0\0\0\x08\xff\xff" + bytes(12) + jpeg[2:]
    with pytest.warns(UserWarning, match="EXIF|MPO"):
        Image.open(io.BytesIO(odd))
    before = list(warnings.filters)

    def read(content: bytes) -> str:
        try:
            return str(image_of(content, "x").size)
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(8) as threads:
        said = set(threads.map(read, [odd, bomb] * 40))
    (refused,) = said - {"(30, 20)"}
    assert refused.startswith("x: image of 9500 x 9500 pixels: the limit is 64,000,000; make it smaller, or raise")
    assert list(warnings.filters) == before, "as they were, whichever thread ended last"


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 4000), (12_000, 1)])
def test_a_strip_is_refused_by_name_before_it_is_resized(size: tuple[int, int]) -> None:
    strip = Image.new("RGB", size)
    for use in (resized_size, pixels):
        with pytest.raises(UsageError, match=rf"^a/x.png: image of {size[0]} x {size[1]} pixels: too long and thin"):
            use(strip, height=224, width=224, resize=256, name="a/x.png")


def test_long_images_that_fit_are_resized(tmp_path: Path) -> None:
    assert resized_size(Image.new("RGB", (900, 1)), height=224, width=224, resize=256) == (230_400, 256)


def test_a_raised_limit_takes_what_pillow_itself_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    content = encoded("PNG", Image.new("1", (8100, 8000)))
    with pytest.raises(UsageError, match=r"x: image of 64800000 pixels: the limit is 64,000,000; make it smaller, or"):
        image_of(content, "x")
    monkeypatch.setenv("RESX_MAX_MEGAPIXELS", "65")
    assert image_of(content, "x").size == (8100, 8000)


def test_a_small_tiff_of_huge_tiles_is_refused() -> None:
    tags = [
        (256, 9),
        (257, 9),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 16_000),
        (323, 16_000),
        (324, 8),
        (325, 9),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(UsageError, match="x: image of 16000 x 16000 pixels: the limit is"):
        image_of(content, "x")


def test_threads_hold_no_more_pixels_than_one_largest_image_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_MAX_MEGAPIXELS", "1")
    content, lock, inside, most = encoded("PNG", Image.new("1", (700, 700))), threading.Lock(), 0, 0

    def use(_: int) -> None:
        nonlocal inside, most
        with open_image(content, "x") as image:
            with lock:
                inside += 1
                most = max(most, inside)
            pixels(image, height=300, width=300, resize=300)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(40)))
    assert most == 2, "two of half a megapixel each"


def test_a_picture_of_34_bytes_and_64_megapixels_keeps_the_process_below_2_gb(tmp_path: Path) -> None:
    (tmp_path / "x.webp").write_bytes(encoded("WEBP", Image.new("RGB", (8000, 8000)), lossless=True, method=0))
    assert (tmp_path / "x.webp").stat().st_size < 1000
    code = (
        "from pathlib import Path; from concurrent.futures import ThreadPoolExecutor\n"
        "from resx.data.folder import decode; from resx.zoo.spec import ImageFormat\n"
        "f = ImageFormat(image_size=16, resize=16, mean=(0, 0, 0), std=(1, 1, 1))\n"
        "with ThreadPoolExecutor(3) as t: list(t.map(lambda _: decode(Path('x.webp'), f), range(3)))\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_600_000, "kB; not ru_maxrss, which begins with that of the process before"
