"""A Python that the embedded server's wheel has no stub for: what is served all the same, and what is refused."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from resx.errors import MissingCapability
from resx.repository.image_endpoint import IMAGE, PREPROCESS
from resx.repository.versions import Repository
from resx.serving.client.address import parse_address
from resx.serving.client.client import TritonClient
from resx.serving.embedded import machine_checks
from resx.serving.embedded.installation import triton_installation
from resx.serving.embedded.installation.native_backend import missing_for_native
from resx.serving.embedded.installation.python_stub import (
    PYTHONS,
    THIS,
    computes_natively,
    missing_stub,
    require_stub_for,
)
from tests.support.tiny_models import publish_tiny
from tests.support.triton_by_hand import triton_by_hand

ROOT = Path(__file__).parents[4]
LATER = (3, 14)


@pytest.mark.parametrize("python", [LATER, (3, 15), (3, 10)])
def test_a_version_without_a_stub_is_told_with_those_that_have_one(python: tuple[int, int]) -> None:
    reason = missing_stub(python)
    assert reason is not None
    assert f"3.11 to 3.13, but this is {python[0]}.{python[1]}; use one of those, or NVIDIA's container" in reason


def test_a_version_whose_libpython_is_not_there_is_told_what_to_install() -> None:
    other = next(python for python in PYTHONS if python != THIS)
    assert "install libpython{}.{} or".format(*other) in (missing_stub(other) or "")


def test_without_a_stub_models_are_computed_in_the_server_unless_it_is_asked_otherwise() -> None:
    assert {asked: computes_natively(asked, LATER) for asked in (None, True, False)} == {
        None: True,
        True: True,
        False: False,
    }
    assert computes_natively(None) == (missing_stub() is not None)


def test_isolation_that_is_asked_for_by_name_is_refused_with_the_remedy() -> None:
    if reason := triton_installation.missing_for_install():
        pytest.skip(reason)
    with pytest.raises(MissingCapability, match=r"this is 3\.14; use one of those, or NVIDIA's container"):
        triton_installation.install(python=LATER)


def test_without_stub_and_compiler_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert re.search(r"install g\+\+ or set CXX; .*this is 3\.14", missing_for_native(LATER) or "")


def test_what_runs_python_inside_the_server_is_refused_by_name(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny", image_endpoint=True)
    for model in ("tiny", "tiny" + IMAGE):
        require_stub_for(repository.root / model, LATER)
    with pytest.raises(MissingCapability, match=rf"^tiny{PREPROCESS}: needs Python inside the server: .*3\.14"):
        require_stub_for(repository.root / ("tiny" + PREPROCESS), LATER)


@pytest.mark.parametrize("line", ['backend: "tensorrt"', 'platform: "tensorrt_plan"', 'backend: "tensorrt_rtx"'])
def test_engines_are_run_by_python_too(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.pbtxt").write_text(line)
    require_stub_for(tmp_path)
    with pytest.raises(MissingCapability, match=r"needs Python inside the server: .*3\.14"):
        require_stub_for(tmp_path, LATER)


def test_doctor_tells_it() -> None:
    finding = machine_checks._python_inside(LATER)
    assert (finding.found, "3.14" in finding.detail) == (False, True)
    assert "image endpoints" in finding.needed_for
    assert finding.remedy.startswith("use one of those")


@pytest.mark.triton
def test_the_native_backend_serves_without_a_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := triton_installation.missing_for_install() or missing_for_native(LATER):
        pytest.skip(reason)
    triton_installation.install(native=True)  # has the wheel fetched, if need be
    wheel = triton_installation.make_cache_folder("downloads") / triton_installation.WHEEL
    monkeypatch.setenv("RESX_CACHE", str(tmp_path / "cache"))
    shutil.copy(wheel, triton_installation.make_cache_folder("downloads") / triton_installation.WHEEL)
    installed = triton_installation.install(native=True, python=LATER)
    assert not list(installed.server.parents[1].rglob("*stub"))

    repository = Repository(tmp_path / "model_repository")
    card, _ = publish_tiny(repository, "tiny")
    with (
        triton_by_hand(repository.root, "explicit", tmp_path / "log", installed) as ports,
        TritonClient(parse_address(f"127.0.0.1:{ports.grpc}", "grpc")) as client,
    ):
        client.load("tiny")
        answer = client.infer("tiny", client.interface("tiny"), np.zeros((1, 3, 16, 16), np.uint8))
    assert answer.logits.shape == (1, card.signature.num_outputs)


def test_package_and_readme_name_the_versions_that_are_served_in_full() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [text.removeprefix("Programming Language :: Python :: ") for text in project["classifiers"]]
    versions = [f"{major}.{minor}" for major, minor in PYTHONS]
    assert [text for text in named if re.fullmatch(r"3\.\d+", text)] == versions
    assert project["requires-python"] == f">={versions[0]}"
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
