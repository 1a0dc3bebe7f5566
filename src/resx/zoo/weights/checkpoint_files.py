"""The tensors in a file, under the names and entries that it gives them.

Files are safetensors, or read with `weights_only=True`: no pickle ever runs. A file that holds other things than
tensors is refused with the names of their classes, which its opcodes tell without running them.
"""

from __future__ import annotations

import itertools
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from resx.errors import UsageError
from resx.zoo.weights.file_kinds import few, require_weights, show_name

_MAX_DEPTH = 8
"""Of mappings within mappings; real files have four at most."""
_MAX_PICKLE_BYTES = 256 * 2**20
_MAX_OPCODES = 4_000_000
"""A thousand tensors take 30,000; each opcode may make an object of 200 bytes."""
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""0x1950a86a20f9469cfc6c as the second opcode of a pickle."""
_NUM_LEGACY_PICKLES = 5
"""torch.save before 1.6 wrote a magic number, a version, the machine's sizes, the object and the storages' names."""
# What weights_only=True allows by itself.
_PLAIN = re.compile(
    r"torch\.\w+|torch\._utils\.\w+|torch\._tensor\.\w+|torch\.(cuda|cuda\.sparse|sparse|nn\.parameter|storage)\.\w+"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex)"
)
_NUMPY = ("scalar", "_reconstruct")
_DTYPES = ", ".join(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64"))
# Classes that do nothing when they are made, and how to name them to torch.
_HARMLESS = {
    "argparse.Namespace": "argparse.Namespace",
    "types.SimpleNamespace": "types.SimpleNamespace",
    "pathlib.PosixPath": "pathlib.PosixPath",
    "datetime.datetime": "datetime.datetime",
    "datetime.timedelta": "datetime.timedelta",
    "collections.defaultdict": "collections.defaultdict",
    **{f"__builtin__.{name}": name for name in ("list", "dict", "int", "float")},
    **{f"numpy._core.multiarray.{name}": f"numpy._core.multiarray.{name}" for name in _NUMPY},
    **{f"numpy.core.multiarray.{name}": f"(numpy._core.multiarray.{name}, 'numpy.core.multiarray.{name}')"
       for name in _NUMPY},
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": f"numpy.dtype, {_DTYPES}",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A tensor of a file."""

    entry: str
    """The keys of the mappings around it, joined with dots; empty where it lies at the top."""
    tensor: Tensor


def read_checkpoint(path: Path) -> dict[str, Stored]:
    """Read every tensor in a file under its whole name: the keys of the mappings around it, and its own, with dots.

    Raises:
        UsageError: the file is missing, damaged or something else, or holds other classes or no tensors.
    """
    if require_weights(path) == "safetensors":
        return as_stored(_read_safetensors(path))
    found: dict[str, Stored] = {}
    _collect(read_torch(path), (), found, set())
    if not found:
        raise UsageError(f"{path}: holds no state dict (names to tensors); save `model.state_dict()`")
    return found


def as_stored(state: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Return a plain state dict as a file would hold it."""
    return {name: Stored(entry="", tensor=tensor) for name, tensor in state.items()}


def _collect(node: object, keys: tuple[str, ...], found: dict[str, Stored], seen: set[int]) -> None:
    """Collect the tensors of nested mappings and sequences; each is entered once, however often it is referred to."""
    if len(keys) > _MAX_DEPTH or id(node) in seen:
        return
    seen.add(id(node))
    children: list[tuple[object, object]] = []
    if isinstance(node, Mapping):
        children = list(node.items())
    elif isinstance(node, list | tuple):
        children = list(enumerate(node))
    for key, value in children:
        if not isinstance(key, str | int):
            continue
        if isinstance(value, Tensor):
            found[".".join((*keys, str(key)))] = Stored(entry=".".join(keys), tensor=value)
        elif isinstance(value, Mapping | list | tuple):
            _collect(value, (*keys, str(key)), found, seen)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    import safetensors
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (safetensors.SafetensorError, OSError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise UsageError(
            f"{path}: truncated or damaged safetensors ({show_name(str(error))}); copy it again"
        ) from error


def read_torch(path: Path) -> object:
    """Return what `torch.save` wrote, as it is: torch keeps the format's version in an attribute of a state dict.

    Raises:
        UsageError: the file is damaged, or holds other classes than tensors and plain values.
    """
    _require_few_objects(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # not its name: torch judges files by their suffix
            warnings.simplefilter("ignore")  # "unusual pickle protocol": of files that are then refused anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers raise nearly everything on damaged files
        raise UsageError(f"{path}: {_refusal(path)}") from error


def _require_few_objects(path: Path) -> None:
    """Check that a file's pickles make no gigabytes of objects: an empty set is one byte there, 200 in memory.

    Raises:
        UsageError: they do.
    """
    try:
        num_opcodes = sum(1 for _ in itertools.islice(_opcodes_in(path), _MAX_OPCODES + 1))
    except UsageError:
        raise
    except Exception:  # damaged: torch says so
        return
    if num_opcodes > _MAX_OPCODES:
        raise UsageError(f"{path}: holds more than {_MAX_OPCODES:,} objects beside its tensors; save only the tensors")


def _refusal(path: Path) -> str:
    """Say why torch refused a file, without torch's advice to run what is in it."""
    try:
        classes = _classes_in(path)
    except Exception:  # a damaged pickle ends its disassembly in any way
        return "truncated or damaged; copy or download it again"
    foreign = [name for name in dict.fromkeys(classes) if not _PLAIN.fullmatch(name)]
    if not foreign:
        return "truncated, damaged, or not saved with torch.save's own pickle protocol; copy it again, or save it anew"
    names = few(foreign)
    line = "torch.save(model.state_dict(), 'weights.pth')"
    if any(name.startswith("torch.nn.modules.") for name in foreign):
        return (
            f"not a plain file of weights: it holds a whole pickled network ({show_name(foreign[0])}); load it with "
            f"the code that made it and save only the tensors: {line}"
        )
    if not _is_written_by_torch(path):
        return f"not a plain file of weights: a Python pickle that torch.save did not write ({names}); use {line}"
    if set(foreign) <= set(_HARMLESS):
        return f"not a plain file of weights: it also holds {names}; save only the tensors: {_command(path, foreign)}"
    return (
        f"not a plain file of weights: it also holds {names}, which may run code; where it was made, save only the "
        f"tensors: {line}"
    )


def _is_written_by_torch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK" or file.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC


def _command(path: Path, classes: list[str]) -> str:
    """Return a command that copies the tensors of a file with the given harmless classes into another file."""
    allowed = ", ".join(_HARMLESS[name] for name in classes)
    modules = ", ".join(sorted({"torch", *(name.partition(".")[0] for name in classes)} - {"__builtin__"}))
    name = str(path) if re.fullmatch(r"[\w./+-]+", str(path)) else "FILE"
    return (
        f'python -c "import {modules}; torch.serialization.add_safe_globals([{allowed}]); keep = lambda v: '
        "{k: keep(x) for k, x in v.items() if isinstance(x, (dict, torch.Tensor))} if isinstance(v, dict) else v; "
        f"torch.save(keep(torch.load('{name}', map_location='cpu')), 'tensors.pth')\""
    )


def _classes_in(path: Path) -> list[str]:
    """Return the classes and functions that a pickled file names, in its order, by its opcodes; nothing is run."""
    return list(_globals(_opcodes_in(path)))


def _opcodes_in(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the names and arguments of the opcodes of a file's pickles, without running them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            if (size := archive.getinfo(name).file_size) > _MAX_PICKLE_BYTES:
                raise UsageError(f"{path}: {size:,} bytes beside its tensors; save only the tensors")
            with archive.open(name) as file:
                yield from _opcodes(file)
        return
    with path.open("rb") as file:
        for _ in range(_NUM_LEGACY_PICKLES):
            yield from _opcodes(file)
            if not file.peek(1):
                break


def _opcodes(file: IO[bytes]) -> Iterator[tuple[str, object]]:
    for opcode, argument, _ in pickletools.genops(file):
        yield opcode.name, argument


def _globals(opcodes: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Yield what GLOBAL and STACK_GLOBAL opcodes name."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    before = ""
    for name, argument in opcodes:
        if name == "GLOBAL":
            yield str(argument).replace(" ", ".", 1)
        elif name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif "UNICODE" in name:
            texts.append(str(argument))
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if "UNICODE" in before else ""
        elif name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
            texts += filter(None, [memo.get(argument)])
        before = name
