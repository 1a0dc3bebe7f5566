"""The SBOM beside the wheel: valid CycloneDX, and all of the lock in it, with the Triton that no lock holds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from supply.locks import ROOT, SETUP, read_lock, triton

from resx._version import __version__

PYTHON = ROOT / ".tools" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="`make .tools/.installed` installs CycloneDX's library")
VALID = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()) is not None)
"""


def write(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(PYTHON), "-m", "supply.sbom", str(folder), "--environment", sys.prefix]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    (folder / f"resx-{__version__}-py3-none-any.whl").write_bytes(b"a wheel")
    done = write(folder, SOURCE_DATE_EPOCH="1700000000")
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / f"resx-{__version__}.cdx.json").read_text()


@pytest.fixture(scope="module")
def sbom(text: str) -> dict[str, Any]:
    return json.loads(text)


def is_valid(text: str) -> bool:
    return subprocess.run([str(PYTHON), "-c", VALID], input=text, text=True, check=False).returncode == 0


def test_it_fits_cyclonedx_schema_and_the_check_can_fail(text: str) -> None:
    assert json.loads(text)["specVersion"] == "1.6"
    assert is_valid(text)
    assert not is_valid(text.replace('"SHA-256"', '"SHA-255"', 1))
    assert not is_valid(text.replace('"components"', '"komponents"', 1))


def test_every_pin_and_triton_are_components_with_their_hashes(sbom: dict[str, Any]) -> None:
    found = {one["purl"]: {each["content"] for each in one["hashes"]} for one in sbom["components"]}
    pins = (*read_lock(SETUP), triton()[0])
    assert found == {f"pkg:pypi/{pin.name}@{pin.version}": set(pin.sha256) for pin in pins}


def test_it_is_about_this_wheel(sbom: dict[str, Any]) -> None:
    import hashlib

    about = sbom["metadata"]["component"]
    assert (about["name"], about["version"]) == ("resx", __version__)
    assert [each["content"] for each in about["hashes"]] == [hashlib.sha256(b"a wheel").hexdigest()]


def test_a_scope_says_what_a_package_is_for(sbom: dict[str, Any]) -> None:
    scopes = {one["name"]: one["scope"] for one in sbom["components"]}
    wanted = {
        "numpy": "required",
        "tritonclient": "required",
        "aiohttp": "required",
        "torch": "optional",
        "nvidia-pytriton": "optional",
        "pytest": "excluded",
        "mypy": "excluded",
    }
    assert {name: scopes[name] for name in wanted} == wanted


def test_what_asks_for_what_is_there(sbom: dict[str, Any]) -> None:
    edges = {one["ref"]: one.get("dependsOn", ()) for one in sbom["dependencies"]}
    assert {name.partition("@")[0] for name in edges["resx"]} >= {"numpy", "torch", "nvidia-pytriton"}
    (vision,) = (refs for ref, refs in edges.items() if ref.startswith("torchvision@"))
    assert {name.partition("@")[0] for name in vision} >= {"torch", "pillow"}


def test_licenses_are_those_that_packages_declare(sbom: dict[str, Any]) -> None:
    licenses = {one["name"]: one.get("licenses") for one in sbom["components"]}
    assert licenses["rich"][0]["license"]["id"] == "MIT"
    assert "BSD-3-Clause" in licenses["numpy"][0]["expression"]


def test_the_same_wheel_gives_the_same_bytes(folder: Path, text: str) -> None:
    assert write(folder, SOURCE_DATE_EPOCH="1700000000").returncode == 0
    assert (folder / f"resx-{__version__}.cdx.json").read_text() == text


def test_without_a_wheel_or_an_environment_nothing_is_written(tmp_path: Path) -> None:
    done = write(tmp_path)
    assert (done.returncode, done.stderr.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    (tmp_path / f"resx-{__version__}-py3-none-any.whl").write_bytes(b"a wheel")
    command = [str(PYTHON), "-m", "supply.sbom", str(tmp_path), "--environment", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, len(list(tmp_path.iterdir()))) == (4, 1)
