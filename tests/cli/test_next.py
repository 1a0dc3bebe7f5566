"""What a command proposes to do next is a command that works as it stands."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from resx.cli.options.connection import Connection, ServerAccess
from tests.support.command import Finished

PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
pytestmark = pytest.mark.triton


@pytest.fixture
def served(resx: Callable[..., Finished], tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Run a command, and return the command of its last line, `Next:`; the servers that were started are stopped."""
    repositories = ["model_repository", "other"]
    state = {"RESX_STATE": str(tmp_path / "state")}

    def run(*words: str) -> list[str]:
        done = resx(*words, *(PORTS if words[0] == "serve" else []), env=state)
        assert done.code == 0, (words, done.out, done.err)
        proposed = re.search(r"^Next: (.*)\n\Z", done.out, re.MULTILINE)
        return [proposed[1]] if proposed else []

    yield run
    for name in repositories:
        if (tmp_path / name).exists():
            resx("stop", "--repository", name, env=state)


def follow(run: Callable[..., list[str]], commands: list[str]) -> list[str]:
    assert commands
    left: list[str] = []
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "resx", command
        left = run(*words)
    return left


def test_each_proposed_command_works_from_training_to_a_served_model(
    served: Callable[..., list[str]], tmp_path: Path
) -> None:
    trained = served(
        "train",
        "resnet20",
        "--data",
        "digits",
        "--image-size",
        "8",
        "--epochs",
        "1",
        "-o",
        "runs of mine/a",
        "--set",
        "stage_depths=[1,1,1]",
    )
    exported = follow(served, trained)
    assert served("evaluate", "runs of mine/a") == trained
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    assert served("query", "a", "photo.png") == exported, "computed in process, as no server runs"
    ready = follow(served, exported)
    assert ready == ["resx bench a"]
    assert served("info", "a") == ["resx deploy a"]
    assert served("evaluate", "a:1") == ["resx deploy a --version 1"]
    assert served("query", "a", "photo.png") == ["resx bench a"]
    assert follow(served, ["resx deploy a"]) == ["resx status"]
    assert served("bench", "a", "--duration", "0.3", "--warmup", "0.1", "--concurrency", "1")[0].startswith("resx ")
    smaller = served("shrink", "runs of mine/a", "--drop", "1", "--search-images", "8", "-o", "runs of mine/b")
    follow(served, follow(served, smaller))


def test_what_changes_nothing_proposes_a_command_too(served: Callable[..., list[str]]) -> None:
    assert served("info", "resnet20") == ["resx export resnet20"]
    assert served("doctor") in ([], ["resx demo"])  # none where something that is needed is missing


@pytest.mark.slow
def test_what_is_proposed_for_a_family_works_too(served: Callable[..., list[str]]) -> None:
    served(
        "train",
        "resnet20",
        "--data",
        "digits",
        "--image-size",
        "8",
        "--epochs",
        "1",
        "-o",
        "run",
        "--set",
        "stage_depths=[1,1,1]",
    )
    follow(served, served("export", "run", "--pareto", "2", "--name", "f", "--repository", "other"))
    served("deploy", "f", "--best-under", "60s", "--repository", "other")


def test_what_leads_to_a_server_is_in_its_command_and_secrets_are_not() -> None:
    access = ServerAccess(protocol="http", ca="ca file.pem")
    there = Connection(repository=Path("other"), url="https://a:8000", access=access)
    assert there.command("bench", "a") == (
        "resx bench a --repository other --url https://a:8000 --protocol http --ca 'ca file.pem'"
    )
    assert Connection().command("status", url="b:8001") == "resx status --url b:8001"
    assert Connection(access=ServerAccess(header=["Authorization: x"])).command("status") == ""
