"""Listings of instructions put through GNU's assembler, for the patches of binaries."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest


def listing(name: str) -> str:
    """Return the text of a listing of resx's patches."""
    return (resources.files("resx.serving.embedded.patches") / name).read_text()


def assemble(name: str, at: int, entry: str, folder: Path) -> tuple[bytes, dict[str, int]]:
    """Return the bytes of a listing that lies at an address, and where its labels are; without binutils, skip."""
    if not all(map(shutil.which, ("as", "ld", "objcopy", "nm"))):
        pytest.skip("GNU binutils are not installed")
    (folder / name).write_text(listing(name))
    commands = (
        ["as", name, "-o", "listing.o"],
        ["ld", f"-Ttext={at:#x}", "-e", entry, "listing.o", "-o", "linked"],
        ["objcopy", "-O", "binary", "-j", ".text", "linked", "code"],
    )
    for command in commands:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    symbols = subprocess.run(["nm", "linked"], cwd=folder, check=True, capture_output=True, text=True).stdout
    places = {label: int(place, 16) for place, _, label in map(str.split, symbols.splitlines())}
    return (folder / "code").read_bytes(), places
