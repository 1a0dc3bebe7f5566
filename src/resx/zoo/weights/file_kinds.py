"""What a file given as weights really is, judged by its first bytes, whatever its name ends in."""

from __future__ import annotations

import codecs
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from resx.errors import UsageError
from resx.text import one_line

WANTED = "give a .safetensors, .pth or .pt file of weights"
_NUM_BYTES = 1024
_MOST_UNPACKED, _FREE_BYTES = 2, 2**20
"""What a ZIP archive may unpack to: twice its size, for somebody's compression, and a little."""
_LEAST_BYTES = 10  # of safetensors: the header's length, and an empty header
_MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
_CONVERT = "convert it to a PyTorch state dict"
_UNPACK = "unpack it and give the file of weights inside"
_OTHER_KINDS: dict[bytes, tuple[str, str]] = {
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file (Keras)", _CONVERT),
    b"\x93NUMPY": ("a NumPy array", _CONVERT),
    b"GGUF": ("a GGUF file", _CONVERT),
    b"\x1f\x8b": ("gzip-compressed", _UNPACK),
    b"BZh": ("bzip2-compressed", _UNPACK),
    b"\xfd7zXZ\x00": ("xz-compressed", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"%PDF": ("a PDF document", WANTED),
    b"\x89PNG": ("a PNG image", WANTED),
    b"\xff\xd8\xff": ("a JPEG image", WANTED),
    b"\x7fELF": ("a compiled program", WANTED),
}
# ONNX begins with ir_version (field 1, a number up to 15) and goes on with any of its first fields; a TensorFlow
# SavedModel begins with its schema version 1 and a graph.
_ONNX = re.compile(rb"\x08[\x03-\x0f][\x12\x1a\x22\x28\x32\x3a\x42]", re.DOTALL)
_TENSORFLOW = re.compile(rb"\x08\x01\x12", re.DOTALL)


def require_weights(path: Path) -> Literal["safetensors", "torch"]:
    """Return which of the two readable formats a file has.

    Raises:
        UsageError: neither; the message says what it is and what to give.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the .safetensors, .pth or .pt file inside")
    if not path.exists():
        raise UsageError(f"{path}: no such file; {WANTED}")
    if not path.is_file():
        raise UsageError(f"{path}: not a regular file; {WANTED}")
    try:
        with path.open("rb") as file:
            start = file.read(_NUM_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {WANTED}") from error
    if not start:
        raise UsageError(f"{path}: truncated: it is empty; copy or download it again")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_SAFETENSORS_HEADER:
        return "safetensors"
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        _require_torch_archive(path)
        return "torch"
    if start[0] == 0x80 and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "torch"  # a bare pickle, as torch.save wrote before 1.6; torch refuses all others
    raise UsageError(f"{path}: {_describe(start)}")


def _require_torch_archive(path: Path) -> None:
    """Check that a ZIP archive is one that `torch.save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UsageError(f"{path}: truncated: its end is missing; copy or download it again") from error
    inside = {name.partition("/")[2] for name in names}
    weights = [name for name in names if Path(name).suffix in (".pth", ".pt", ".ckpt", ".safetensors")]
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        line = "torch.save(torch.jit.load('FILE').state_dict(), 'weights.pth')"
        raise UsageError(f"{path}: a TorchScript archive, which holds code; save only its weights: {line}")
    if "data.pkl" in inside:
        unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if unpacked > _MOST_UNPACKED * size + _FREE_BYTES:
            raise UsageError(
                f"{path}: {size:,} bytes that unpack to {unpacked:,}; torch.save never does so: save it anew with it"
            )
        return
    if names and all(name.endswith(".npy") for name in names):
        what = f"NumPy arrays (.npz); {_CONVERT}"
    elif "model.weights.h5" in names:
        what = f"a Keras model; {_CONVERT}"
    elif any("archive_format" in name or name.startswith("models/") for name in inside | set(names)):
        what = "a torch.export program; save model.state_dict() instead"
    elif weights:
        what = f"a ZIP archive with {show_name(weights[0])} in it; unpack it and give that file"
    else:
        what = f"a ZIP archive without weights in it; {WANTED}"
    raise UsageError(f"{path}: {what}")


def _describe(start: bytes) -> str:
    """Return what a file is that holds no weights, and what to do."""
    for magic, (what, remedy) in _OTHER_KINDS.items():
        if start.startswith(magic):
            return f"{what}, not weights; {remedy}"
    if start[257:262] == b"ustar":
        return f"a tar archive, not weights; {_UNPACK} (if PyTorch before 0.2 wrote it: load and save it again there)"
    if start[4:8] == b"TFL3":
        return f"a TensorFlow Lite model, not weights; {_CONVERT}"
    if _ONNX.match(start):
        return "an ONNX model, not weights; export it directly: resx export FILE.onnx"
    if _TENSORFLOW.match(start):
        return f"a TensorFlow model, not weights; {_CONVERT}"
    if said := _text_described(start):
        return said
    if len(start) < _LEAST_BYTES:
        return f"truncated: it has {len(start)} bytes; copy or download it again"
    return f"neither safetensors nor saved by torch.save, or damaged; {WANTED}"


def _text_described(start: bytes) -> str:
    """Return what a text file is, or nothing if it is no text."""
    try:  # an incremental decoder, as the last character may be cut
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start).lstrip().lower()
    except UnicodeDecodeError:
        return ""
    if any(ord(character) < 32 and character not in "\t\n\r\f\v\x1b" for character in text):
        return ""
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull"
    if text.startswith(("<!doctype html", "<html", "<head")) or "<html" in text:
        return "an HTML page, not weights; the download got a login or error page: download the file itself"
    if text.startswith("<"):
        return "XML text, not weights; the download got an error: download the file itself"
    if '"weight_map"' in text:
        return "the index of weights in several files; join them into one .safetensors or .pth file"
    if text.startswith(("{", "[")):
        return f"JSON text, not weights; {WANTED}"
    return f"text, not weights; {WANTED}"


def show_name(name: str, limit: int = 100) -> str:
    """Return a name out of a file as one line that no terminal acts on, cut where it is too long."""
    text = one_line(name[:limit])
    return text if len(name) <= limit else f"{text}..."


def few(names: Sequence[str]) -> str:
    """Return the first three names of a file, for a message."""
    return ", ".join(show_name(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
