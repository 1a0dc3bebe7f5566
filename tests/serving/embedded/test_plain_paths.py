"""Triton's shell splits and runs what a path holds: it is given links with plain paths, wherever things lie."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from resx.errors import UsageError
from resx.files.own_folders import cache_folder
from resx.repository.versions import Repository
from resx.serving.embedded.installation.triton_installation import Installation
from resx.serving.embedded.plain_paths import is_plain, links_folder, plain_installation
from tests.support.command import Finished
from tests.support.running_triton import wait_until
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]
ODD = "a b é $(touch x)'\""
ANY_PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")


@pytest.mark.parametrize(
    "name", [ODD, "two words", "a;b", "a&b", "(a)", "`a`", "josé", "☃", "a|b", "a<b", "a\nb", "~a"]
)
def test_a_path_with_anything_but_letters_digits_and_a_few_marks_is_not_plain(name: str) -> None:
    assert not is_plain(f"/srv/{name}")
    assert not is_plain("relative/path")
    assert is_plain("/srv/model-repository_2.old")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_links_lie_in_the_state_folder_where_its_path_is_plain_and_elsewhere_where_not(
    tmp_path: Path, temporary: Path
) -> None:
    odd = tmp_path / ODD
    odd.mkdir()
    with links_folder(tmp_path) as links:
        assert links == tmp_path
    with links_folder(odd) as links:
        assert links.parent == temporary / f"resx-{os.geteuid()}"
        assert links.stat().st_mode & 0o777 == 0o700
        made = plain_installation(
            Installation(
                server=odd / "bin/tritonserver",
                backends=odd / "backends",
                libraries=odd / "libs",
                caches=odd / "caches",
            ),
            links,
        )
        assert is_plain(made.server)
        assert made.backends.resolve() == odd / "backends"
    assert not links.exists(), "it goes with its server"


def test_the_links_of_killed_servers_are_removed_and_those_of_others_are_not(tmp_path: Path, temporary: Path) -> None:
    odd = tmp_path / "josé"
    odd.mkdir()
    for _ in range(3):
        dies = (
            "import os, signal, sys, tempfile, pathlib; tempfile.tempdir = sys.argv[2];"
            "from resx.serving.embedded.plain_paths import links_folder\n"
            "with links_folder(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
        )
        done = subprocess.run([sys.executable, "-c", dies, odd, temporary], check=False)
        assert done.returncode == -signal.SIGKILL
    parent = temporary / f"resx-{os.geteuid()}"
    assert len(list(parent.iterdir())) == 1, "each removes what the one before left"
    with links_folder(odd) as one, links_folder(odd) as two:
        assert sorted(parent.iterdir()) == sorted([one, two])


@pytest.mark.parametrize("squatted", ["open to all", "a link", "a file"])
def test_a_folder_that_somebody_else_can_write_is_passed_over(squatted: str, tmp_path: Path, temporary: Path) -> None:
    mine = temporary / f"resx-{os.geteuid()}"
    if squatted == "a link":
        mine.symlink_to(tmp_path)
    elif squatted == "a file":
        mine.write_text("")
    else:
        mine.mkdir()
        mine.chmod(0o777)
    odd = tmp_path / "a b"
    odd.mkdir()
    with links_folder(odd) as links:
        assert not links.is_relative_to(temporary)
        assert is_plain(links)


@pytest.mark.parametrize("variable", ["RESX_STATE", "RESX_CACHE", "HOME"])
def test_a_path_that_is_not_utf8_is_refused_in_one_line(variable: str, resx: Resx, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    repository.root.mkdir()
    env = {variable: os.fsdecode(os.fsencode(tmp_path) + b"/c\xe9")}
    if variable == "HOME":
        env |= {"RESX_STATE": "", "RESX_CACHE": ""}
    done = resx("serve", *ANY_PORTS, env=env)
    assert done.code == 2
    assert "c\\xe9" in done.err
    assert "has bytes that are not UTF-8" in done.err
    assert done.err.count("\n") == 1


def test_an_option_that_is_not_utf8_is_refused_in_one_line(resx: Resx) -> None:
    done = resx("status", "--repository", os.fsdecode(b"c\xe9"))
    assert (done.code, done.err.count("\n")) == (2, 1)


def _odd_cache(folder: Path) -> None:
    """Give another path to what the cache folder holds; hard links, as resx follows none of the others."""

    def copy(source: str, target: str) -> str:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        return target

    shutil.copytree(cache_folder("triton"), folder / "triton", copy_function=copy)


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--native"]], ids=["isolated", "native"])
def test_odd_paths_are_served_brought_back_and_never_run(
    words: list[str], resx: Resx, tmp_path: Path, triton: object
) -> None:
    home = tmp_path / ODD
    repository = Repository(home / ODD)
    publish_tiny(repository, "tiny", image_endpoint=True)
    _odd_cache(home / "cache é")
    env = {
        "HOME": str(home),
        "RESX_STATE": str(home / "state $(touch x)"),
        "RESX_CACHE": str(home / "cache é"),
        "RESX_REPOSITORY": str(repository.root),
        "LC_ALL": "C",
    }

    def run(*arguments: str) -> Finished:
        done = resx(*arguments, env=env)
        assert done.code == 0, done.err
        return done

    def state() -> dict[str, int]:
        return dict(json.loads(next(home.glob("state*/servers/*/server.json")).read_text()))

    served = run("serve", "--detach", "--json", *ANY_PORTS, *words).json
    try:
        assert served["models"] == {name: [1] for name in ("tiny", "tiny_image", "tiny_postprocess", "tiny_preprocess")}
        os.kill(state()["server_pid"], signal.SIGKILL)
        wait_until(lambda: state()["restarts"] == 1, "the server was brought back")
        publish_tiny(repository, "later")
        run("deploy", "later")
        publish_tiny(repository, "tiny", seed=1)
        run("deploy", "tiny", "--trial=0")
        assert {model["name"] for model in run("status", "--json").json["models"]} >= {"tiny", "later"}
    finally:
        run("stop")
    assert not list(tmp_path.rglob("x")), "$(touch x) was run"
    assert not Path("x").exists()


def test_where_no_path_is_plain_the_message_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resx.serving.embedded import plain_paths

    monkeypatch.setattr(plain_paths, "_places", lambda: iter(()))
    odd = tmp_path / "josé"
    odd.mkdir()
    with pytest.raises(UsageError, match="set TMPDIR to a folder of your own"), links_folder(odd):
        pass
