"""The locks that `make lock` writes: each package once, with the SHA-256 of every file of its version.

`setup.txt` holds what `make setup` installs, `build.txt` the setuptools that builds what comes as source, `tools.txt`
the tools that run beside resx, and `benchmarks/peers/*.txt` the servers that resx is compared with. All are for every
system and for Python 3.11 and newer: lines carry markers where they are for some only.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from resx.errors import UsageError

ROOT = Path(__file__).parents[1]
SETUP, BUILD, TOOLS = (ROOT / "supply" / f"{name}.txt" for name in ("setup", "build", "tools"))
PROJECT = "resx"
"""How a pin says that pyproject.toml itself asks for it."""
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One package of a lock."""

    name: str
    """As PyPI normalizes it."""
    version: str
    marker: str
    """Where it is installed; empty: everywhere."""
    sha256: tuple[str, ...]
    """Of the files of this version, one of which is installed."""
    wanted_by: tuple[str, ...]
    """The packages that ask for it."""


def lock_files() -> tuple[Path, ...]:
    """Return every lock there is."""
    return SETUP, BUILD, TOOLS, *sorted((ROOT / "benchmarks" / "peers").glob("*.txt"))


def read_lock(path: Path) -> tuple[Pin, ...]:
    """Read a lock.

    Raises:
        UsageError: a line is no pin of one version, or a pin has no hash: pip would refuse it as well.
    """
    blocks: list[list[str]] = []
    for line in path.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            blocks.append([line])
        elif blocks:
            blocks[-1].append(line)
    return tuple(_pin(path, block) for block in blocks)


def _pin(path: Path, block: list[str]) -> Pin:
    text = block[0].removesuffix("\\").strip()
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise UsageError(f"{path}: {text}: not a requirement; run `make lock`") from error
    pinned = [one.version for one in requirement.specifier if one.operator == "==" and "*" not in one.version]
    hashes = tuple(found for line in block[1:] for found in _HASH.findall(line))
    if len(pinned) != len(requirement.specifier) or len(pinned) != 1 or requirement.url or not hashes:
        raise UsageError(f"{path}: {text}: a pin is NAME==VERSION with the SHA-256 of its files; run `make lock`")
    said = (line.strip().removeprefix("#").strip().removeprefix("via").strip() for line in block[1:] if "#" in line)
    return Pin(
        name=canonicalize_name(requirement.name),
        version=pinned[0],
        marker=str(requirement.marker or ""),
        sha256=hashes,
        wanted_by=tuple(word.split()[0] for word in said if word and not word.startswith("-")),
    )


def constants(path: Path) -> dict[str, str]:
    """Return the texts that a module assigns to names, without running it: what it imports may be missing here."""
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign):
            (target,), value = node.targets, node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            else:
                pairs = [(target, value)]
            for name, text in pairs:
                if isinstance(name, ast.Name) and isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[name.id] = text.value
    return found


def triton() -> tuple[Pin, str, str]:
    """Return the wheel that the embedded server is unpacked from, its file's name and the version of Triton in it.

    No lock holds it: pip fetches it when a server is first started, and it is held to this hash.
    """
    said = constants(ROOT / "src" / "resx" / "serving" / "embedded" / "installation" / "triton_installation.py")
    pin = Pin(
        name=said["PACKAGE"],
        version=said["PACKAGE_VERSION"],
        marker="",
        sha256=(said["WHEEL_SHA256"],),
        wanted_by=(PROJECT,),
    )
    return pin, said["WHEEL"], said["TRITON_VERSION"]
