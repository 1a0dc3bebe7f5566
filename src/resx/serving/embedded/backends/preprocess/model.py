"""Python-backend model of an image endpoint: a file's bytes in, the network's pixels out.

`resx export --image-endpoint` copies it to `NAME_preprocess/1/model.py`; the ensemble `NAME_image` runs it before
NAME. It needs numpy and Pillow in the server's Python and nothing of resx, so it runs in NVIDIA's container too.
The pixels are those of `resx query`: it repeats `resx.data.image_decoding` and `resx.data.image_geometry`, and a test
compares.

The file comes as UINT8 [length], not as BYTES: a BYTES tensor passes through numpy inside the embedded server's
stub, which was built against numpy 1 and keeps one byte of it. UINT8 crosses by DLPack, exactly.

Pillow decodes with libjpeg-turbo, libpng and libwebp. Its draft mode would decode large JPEGs faster, and gives
other pixels; so it is not used.
"""

import ctypes
import io
import json
import re
import warnings
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

FORMATS = ("JPEG", "PNG", "WEBP")
PNG = b"\x89PNG\r\n\x1a\n"
KINDS = {"PNG": re.escape(PNG), "JPEG": rb"\xff\xd8\xff", "WebP": rb"RIFF....WEBP"}
PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
MAX_FILE_BYTES = 32 * 2**20
MAX_PIXELS = 64_000_000
"""Of the decoded image, and of the resized one: a line of 1 x 60,000 pixels is a bomb too."""
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CROPS = ("center", "squash")
LAYOUTS = ("nchw", "nhwc")
CHANNEL_ORDERS = ("rgb", "bgr")
PIXEL_MAXIMA = ("1", "255")
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)


class BadImageError(ValueError):
    """The client's file cannot be used; the message says why."""


class TritonPythonModel:
    """Decodes one file a request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the sizes from the configuration's parameters."""
        config = json.loads(args["model_config"])
        texts = {key: value["string_value"] for key, value in config["parameters"].items()}
        dims = [int(dim) for dim in config["output"][0]["dims"]]
        self.resize = int(texts["resx.resize"])
        self.interpolation = word(texts, "resx.interpolation", tuple(FILTERS))
        self.crop = word(texts, "resx.crop", CROPS)
        self.layout = word(texts, "resx.layout", LAYOUTS)
        self.channels = word(texts, "resx.channels", CHANNEL_ORDERS)
        self.white = float(word(texts, "resx.pixel_max", PIXEL_MAXIMA))
        self.height, self.width = dims[-3:-1] if self.layout == "nhwc" else dims[-2:]
        self.normalisation = None
        if "resx.mean" in texts:
            self.normalisation = tuple(
                np.array([float(number) for number in texts[key].split(",")], np.float32).reshape(3, 1, 1)
                for key in ("resx.mean", "resx.std")
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself: a bad image is its own request's error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            if request.is_cancelled():
                return _error("the client cancelled the request", pb_utils.TritonError.CANCELLED)
            content = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "file")).tobytes()
            image = decode(content)
            x_CHW = pixels(
                image,
                height=self.height,
                width=self.width,
                resize=self.resize,
                interpolation=self.interpolation,
                crop=self.crop,
            )
            return pb_utils.InferenceResponse([_tensor("image", self._ordered(self._normalised(x_CHW))[None])])
        except BadImageError as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # a request must get an answer, whatever happened
            return _error(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    def _normalised(self, x_CHW: Array) -> Array:
        if self.normalisation is None:
            return x_CHW
        mean, std = self.normalisation
        scaled = x_CHW.astype(np.float32) / np.float32(255 / self.white)
        return (scaled - mean) / std

    def _ordered(self, x_CHW: Array) -> Array:
        ordered = x_CHW[::-1] if self.channels == "bgr" else x_CHW
        return ordered.transpose(1, 2, 0) if self.layout == "nhwc" else ordered


def word(texts: dict[str, str], key: str, known: tuple[str, ...]) -> str:
    """Return the word of a parameter, the first known one where there is none."""
    found = texts.get(key, known[0])
    if found not in known:
        raise ValueError(f"{key} {found!r}: give {' or '.join(known)}")
    return found


def decode(content: bytes) -> Image.Image:
    """Return the file's picture as 8-bit RGB; an EXIF rotation is ignored, of an animation the first frame is taken.

    Raises:
        BadImageError: it is too large, or no JPEG, PNG or WebP that can be decoded.
    """
    if len(content) > MAX_FILE_BYTES:
        raise BadImageError(f"file of {len(content)} bytes: send {MAX_FILE_BYTES} at most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, lower bound on pixels, and odd metadata
            with Image.open(io.BytesIO(without_metadata(content)), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImageError(f"image of {width} x {height} pixels: send {MAX_PIXELS} at most")
                return rgb(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own bound, which is checked before ours
        num_pixels = re.sub(r"\D*(\d+).*", r"\1", str(error))
        raise BadImageError(f"image of {num_pixels} pixels: send {MAX_PIXELS} at most") from error
    except Exception as error:  # Pillow's decoders raise many kinds for broken files
        raise BadImageError(f"file of {len(content)} bytes: {reason(content, error)}") from error


def rgb(image: Image.Image) -> Image.Image:
    """Return 8-bit RGB; Pillow's own conversion would clip 16-bit grey to nearly white, so its high bytes are kept."""
    if image.mode.startswith("I"):  # only a PNG can be that, and older Pillows call it I instead of I;16
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def without_metadata(content: bytes) -> bytes:
    """Return a PNG without color profiles and texts, which Pillow would unpack; any other file as it is."""
    if not content.startswith(PNG):
        return content
    kept, start = [PNG], len(PNG)
    while start + 8 <= len(content):
        stop = start + 12 + int.from_bytes(content[start : start + 4], "big")  # length, name, data, checksum
        if content[start + 4 : start + 8] in PNG_PIXEL_CHUNKS:
            kept.append(content[start:stop])
        start = stop
    return b"".join(kept)


def reason(content: bytes, error: Exception) -> str:
    """Return why Pillow could not decode a file."""
    if not content:
        return "empty; send a JPEG, PNG or WebP image"
    kind = next((kind for kind, pattern in KINDS.items() if re.match(pattern, content, re.DOTALL)), "")
    if not kind:
        return "not a JPEG, PNG or WebP image"
    is_cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    if kind == "PNG":
        is_cut |= without_metadata(content)[-8:-4] != b"IEND"
    elif kind == "WebP":
        is_cut |= int.from_bytes(content[4:8], "little") + 8 > len(content)
    return f"truncated {kind}: it ends before its image does" if is_cut else f"damaged {kind}"


def pixels(
    image: Image.Image,
    *,
    height: int,
    width: int,
    resize: int,
    interpolation: str = "bilinear",
    crop: str = "center",
) -> Array:
    """Return the center of an RGB image as UINT8 [3, height, width], its shorter side brought to `resize` first.

    With `squash`, both sides are.

    Raises:
        BadImageError: it is so long and thin that resizing it would take too much memory.
    """
    short, long = min(image.size), max(image.size)
    if crop == "squash":
        sides = [resize * side // min(width, height) for side in (width, height)]
    else:
        sides = [resize if side == short else int(resize * long / short) for side in image.size]
    size = (max(width, sides[0]), max(height, sides[1]))
    if size[0] * size[1] > MAX_PIXELS:
        raise BadImageError(f"image of {image.width} x {image.height} pixels: too long and thin")
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    resized = image.resize(size, FILTERS[interpolation]).crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def _tensor(name: str, array: Array) -> Any:
    """Return a tensor by DLPack, and mark the capsule as used by its right name (see the onnxruntime backend)."""
    capsule = np.ascontiguousarray(array).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, b"used_dltensor")
    return tensor


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
