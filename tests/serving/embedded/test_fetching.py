"""How the embedded server's wheel is fetched where pip is not installed, and what `doctor` says of it before."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.errors import MissingCapability
from resx.serving.embedded.installation import bundled_pip, triton_installation
from resx.serving.embedded.installation.bundled_pip import pip_environment
from tests.support.command import Finished


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these packages not be installed."""
    real = bundled_pip.is_installed
    monkeypatch.setattr(bundled_pip, "is_installed", lambda name: name not in names and real(name))


@pytest.mark.skipif(importlib.util.find_spec("ensurepip") is None, reason="this Python comes without ensurepip")
def test_pip_runs_out_of_the_wheel_that_python_brings_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "pip")
    bare = tmp_path / "bare"  # as uv makes them
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)

    done = subprocess.run(
        [bare / "bin/python", "-P", "-m", "pip", "--version"],
        env=pip_environment("something"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "ensurepip" in done.stdout
    assert not list(bare.rglob("pip*"))  # nothing was installed


def test_without_any_pip_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pip", "ensurepip")

    with pytest.raises(MissingCapability, match="uv pip install pip"):
        pip_environment("something")


@pytest.mark.parametrize("name", ["pip", "ensurepip", "distutils"])
def test_no_import_hook_is_asked_for_what_is_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Hook:
        def find_spec(self, *_asked: object) -> None:
            raise AssertionError("asked")

    expected = bundled_pip.is_installed(name)
    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    with pytest.raises(AssertionError, match="asked"):
        importlib.util.find_spec("nothing_of_this_name")
    assert bundled_pip.is_installed(name) is expected


def test_the_doctor_does_not_call_found_what_is_not_there_yet(resx: Callable[..., Finished], tmp_path: Path) -> None:
    if reason := triton_installation.missing_for_install():
        pytest.skip(reason)

    checks = {
        check["what"]: check for check in resx("doctor", "--json", env={"RESX_CACHE": str(tmp_path)}).json["checks"]
    }

    assert checks["embedded Triton"]["state"] == "on first use"
    assert checks["embedded Triton"]["found"]  # as it was: it can be had
    assert checks["Python"]["state"] == "found"
    assert "core" in checks["CPU"]["detail"]
    assert not list(tmp_path.iterdir())
