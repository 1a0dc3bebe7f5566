"""Programs that the tests run and that not every machine has: from PATH, or out of Debian's package, unpacked.

Nothing is installed and no root is needed: apt fetches the package, checked against the archive's signature as always,
into the cache folder, with package lists of its own if the system has none.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from resx.files.locks import exclusive
from resx.files.own_folders import cache_folder
from resx.files.staging import publish_folder, staging_folder


def program(package: str, path: str, *, data: Sequence[str] = ()) -> Path:
    """Return a program, of the system or of the package's `path`; skip the test if there is no way to have it.

    `data`: packages of files that the program needs beside it, and that no library names.
    """
    name = Path(path).name
    if found := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
        return Path(found)
    parent = cache_folder() / "debian"
    parent.mkdir(parents=True, exist_ok=True)
    with exclusive(parent):  # one process fetches, the others wait and find it
        if not (parent / package / path).is_file():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                pytest.skip(f"{name} is not installed, and there is no apt-get to fetch it with")
            _fetch(package, parent, path, data)
    return parent / package / path


def environment(program: Path) -> Mapping[str, str]:
    """Return the environment in which an unpacked program finds the libraries unpacked beside it."""
    folders = [str(path) for root in program.parents for path in root.glob("usr/lib/*-linux-gnu")]
    private = [str(path) for folder in folders for path in Path(folder).glob("pulseaudio")]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(folders[:1] + private)}


def _fetch(package: str, parent: Path, path: str, data: Sequence[str]) -> None:
    with staging_folder(parent) as staged, tempfile.TemporaryDirectory() as folder:
        private = _options(Path(folder))
        _unpack([package, *data], staged, private)
        linked = subprocess.run(["ldd", str(staged / path)], capture_output=True, text=True, check=False).stdout
        if "not found" in linked:
            _unpack(_libraries(package, private), staged, private)
        shutil.rmtree(staged / "usr/share", ignore_errors=True)  # pages, with links into packages that are not here
        publish_folder(staged, parent / package)


def _unpack(packages: Sequence[str], root: Path, private: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The system's lists first: fetching them takes longer than the package.
        for options in (private[1:], private):
            if options is private and not list(Path(private[0].partition("=")[2]).glob("*_Packages*")):
                subprocess.run(["apt-get", "--quiet", *private, "update"], capture_output=True, check=False)
            done = subprocess.run(
                ["apt-get", "--quiet", *options, "download", *packages],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            files = list(Path(folder).glob("*.deb"))
            if len(files) == len(packages):
                for file in files:
                    subprocess.run(["dpkg-deb", "-x", str(file), str(root)], check=True)
                return
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{packages[0]} is not installed, and apt-get cannot fetch it: {reason}")


def _options(folder: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    return [f"-oDir::State::lists={folder}/lists", f"-oDir::Cache={folder}/cache"]


def _libraries(package: str, private: Sequence[str]) -> list[str]:
    """Return what apt would install beside the package: the libraries, and theirs, that this system lacks."""
    simulate = ["--simulate", "--no-install-recommends", "install", package]
    for options in (private[1:], private):
        done = subprocess.run(["apt-get", *options, *simulate], capture_output=True, text=True, check=False)
        names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Inst ")]
        if names:
            return [name for name in names if name.startswith(("lib", "zlib")) and not name.startswith("libjs-")]
    return []
