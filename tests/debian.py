"""Programs that the tests run and that not every machine has: from PATH, or out of Debian's package, unpacked.

Nothing is installed and no root is needed: apt fetches the package, checked against the archive's signature as always,
into the cache folder, with package lists of its own if the system has none.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from resx.files import cache_folder, exclusive, publish_folder, staging_folder


def program(package: str, path: str) -> Path:
    """Return a program, of the system or of the package's `path`; skip the test if there is no way to have it."""
    name = Path(path).name
    if found := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
        return Path(found)
    parent = cache_folder() / "debian"
    parent.mkdir(parents=True, exist_ok=True)
    with exclusive(parent):  # one process fetches, the others wait and find it
        if not (parent / package / path).is_file():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                pytest.skip(f"{name} is not installed, and there is no apt-get to fetch it with")
            _fetch(package, parent, path)
    return parent / package / path


def environment(program: Path) -> Mapping[str, str]:
    """Return the environment in which an unpacked program finds the libraries unpacked beside it."""
    folders = [str(path) for path in program.parents[2].glob("usr/lib/*-linux-gnu")]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(folders)}


def _fetch(package: str, parent: Path, path: str) -> None:
    with staging_folder(parent) as staged:
        _unpack(package, staged)
        linked = subprocess.run(["ldd", str(staged / path)], capture_output=True, text=True, check=False).stdout
        if "not found" in linked:
            for library in _libraries(package):
                _unpack(library, staged)
        shutil.rmtree(staged / "usr/share", ignore_errors=True)  # pages, with links into packages that are not here
        publish_folder(staged, parent / package)


def _unpack(package: str, root: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        private = _options(Path(folder))
        # The system's lists first: fetching them takes longer than the package.
        tries = [[private[1]], private]
        for options in tries:
            if options is private:
                subprocess.run(["apt-get", "--quiet", *options, "update"], capture_output=True, check=False)
            done = subprocess.run(
                ["apt-get", "--quiet", *options, "download", package],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if files := list(Path(folder).glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", str(files[0]), str(root)], check=True)
                return
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{package} is not installed, and apt-get cannot fetch it: {reason}")


def _options(folder: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    return [f"-oDir::State::lists={folder}/lists", f"-oDir::Cache={folder}/cache"]


def _libraries(package: str) -> list[str]:
    shown = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=False).stdout
    names = [line.split()[-1] for line in shown.splitlines() if "Depends:" in line]
    return [name for name in names if name.startswith(("lib", "zlib")) and name != "libc6"]
