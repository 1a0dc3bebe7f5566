"""Several depths of one run: exported together, and one of them deployed because it holds a bound."""

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resx.card.origin import SourceArguments
from resx.cli.main import app
from resx.data.loading import load_data
from resx.errors import ParityError, ResxError, UsageError
from resx.export.repetition import reload_source
from resx.export.request import ExportRequest
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.depth_family_export import FamilyExport, _to_the_end, export_family
from resx.repository.versions import Repository
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.serving.client.client import TritonClient
from resx.serving.deployment.best_under import Member, choose, family_members, measured_on, parse_bound
from resx.serving.deployment.deploy import Manner
from resx.serving.deployment.file_checks import VersionRejected
from resx.serving.deployment.rollback import undeploy
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor import detaching
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from tests.support.command import Finished, refused
from tests.support.small_networks import small_spec

Resx = Callable[..., Finished]
RECORDED = Manner(rehearse=False)
REQUEST = ExportRequest(
    source=SourceArguments(source="r", weights="none", seed=0, image_size=None, settings=()), target="cpu"
)
"""That of the whole network, as the command makes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """A folder with a run `r`, trained for an epoch, and its family in the repository."""

    folder: Path
    printed: Any

    @property
    def repository(self) -> Repository:
        return Repository(self.folder / "model_repository")


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in the folder, with a cache of exports of its own."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patched:
        patched.setenv("RESX_CACHE", str(folder / "cache"))
        patched.setenv("RESX_EXPORT_CACHE_GB", "1")
        yield


def printed_by(folder: Path, *words: str) -> str:
    """Run a command in this process, which has PyTorch loaded; return its stdout."""
    with inside(folder), contextlib.redirect_stdout(io.StringIO()) as out:
        app(list(words), standalone_mode=False)
    return out.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("family")
    config = configure("digits", "digits", {"epochs": 1, "batch_size": 32})
    train(
        TrainingRun(
            spec=small_spec("resnet", survival=0.7),
            data=load_data("digits", image_size=8),
            config=config,
            folder=folder / "r",
        )
    )
    printed = printed_by(folder, "export", "r", "--pareto", "2", "--json", "-q")
    return Home(folder=folder, printed=json.loads(printed))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[ServerState]:
    state = detaching.serve_detached(home.repository, Ports(http=0, grpc=0, metrics=0), ["--load-none"])
    yield state
    detaching.stop(home.repository)


def client_of(server: ServerState) -> TritonClient:
    return TritonClient(server.address("grpc"), timeout_s=30)


def members_of(home: Home) -> list[Member]:
    return family_members(home.repository, "r")


def test_a_family_has_the_whole_network_and_cards_that_name_what_each_member_gets_right_and_takes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = home.printed["members"]
    data = load_data("digits", image_size=8)
    assert [one["num_blocks"] for one in home.printed["sizes"]] == [5, 4, 3, 2, 1]
    assert printed[0]["num_blocks"] == printed[0]["whole_blocks"] == 5
    assert len(printed) == 2
    assert home.repository.names() == sorted(one["name"] for one in printed)
    monkeypatch.chdir(home.folder)
    for one in printed:
        card = home.repository.card(one["name"])
        assert card.family is not None
        assert card.name == f"r-d{card.family.num_blocks}"
        assert len(card.source.network.kept_blocks) == card.family.num_blocks
        assert (card.verified, card.steps[-1].passed) == (True, True)
        logits = OnnxRuntimeModel(Path(one["file"]))(data.held_out.images[:])
        assert card.family.accuracy == pytest.approx((logits.argmax(1) == data.held_out.targets).mean())
        assert (card.family.accuracy_on, card.family.num_images) == ("held-out images of digits", len(data.held_out))
        assert card.family.whole_sha256 == home.repository.card("r-d5").source.weights_sha256
        assert card.family.latency_ms > 0
        assert card.family.processor
        assert one.items() >= card.family.model_dump(exclude={"name"}).items()
        assert card.source.arguments is not None
        reload_source(card, card.source.arguments)  # the run that it was made of is there, with these weights


def test_the_same_command_again_changes_nothing_and_info_shows_the_figures(home: Home) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.repository.root.rglob("*")}
    again = printed_by(home.folder, "export", "r", "--pareto", "2")

    assert "published already" in again
    assert {path: path.stat().st_mtime_ns for path in home.repository.root.rglob("*")} == before
    shown = printed_by(home.folder, "info", "r-d5")
    assert "r: 5 of 5 blocks" in shown
    assert "held-out images of digits" in shown


def exported(home: Home, repository: Repository, last: ExportRequest, on_step: Callable[[str], None]) -> None:
    """Export a family `fam` of two, the first of which was made before."""
    plan = FamilyExport(
        name="fam",
        members=((5, REQUEST), (3, last)),
        data=load_data("digits", image_size=8),
        threads=1,
        force=False,
        command="a test",
    )
    with inside(home.folder):
        export_family(repository, plan, ServingOptions(), on_step)


def test_a_member_that_fails_verification_is_named_and_none_is_published(home: Home, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")

    with pytest.raises(ParityError, match=r"fam-d3: .* differs from its source.*nothing was published"):
        exported(home, repository, REQUEST.model_copy(update={"atol": 1e-30}), lambda _step: None)

    assert repository.names() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_ctrl_c_before_publishing_leaves_nothing(home: Home, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")

    def interrupt(step: str) -> None:
        if step.startswith("latency"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        exported(home, repository, REQUEST, interrupt)

    assert repository.names() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_ctrl_c_while_publishing_waits_until_all_are_there() -> None:
    done = []

    def publish() -> None:
        with _to_the_end():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("published")

    with pytest.raises(KeyboardInterrupt):
        publish()
    assert done == ["published"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["r", "--pareto", "1"], ["--pareto 1", "give 2 or more"]),
        (["resnet20", "--pareto", "2"], ["no trained weights"]),
        (["torchvision:resnet18", "--pareto", "2"], ["not a run"]),
        (["r", "--pareto", "2", "--format", "tensorrt"], ["--format tensorrt", "onnxruntime"]),
        (["r", "--pareto", "2", "--weights", "imagenet"], ["--weights", "remove the option"]),
        (["model_repository/r-d5/1/model.onnx", "--pareto", "2"], ["not a run"]),
        (["r", "--pareto", "2", "--plan", "m.plan"], ["--plan"]),
    ],
)
def test_what_no_family_can_be_made_of_is_refused(home: Home, arguments: list[str], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        printed_by(home.folder, "export", *arguments)
    assert all(word in str(error.value) for word in words)


def test_a_name_that_another_model_has_is_refused(home: Home, tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    shutil.copytree(home.repository.root / "r-d5", repository / "r-d4")
    single = home.repository.card("r-d5").model_copy(update={"name": "r-d4", "family": None})
    (repository / "r-d4/1/card.json").write_text(single.model_dump_json())
    with pytest.raises(UsageError, match="r-d4: an independent model already has a name .*another --name"):
        printed_by(home.folder, "export", "r", "--pareto", "2", "--repository", str(repository))
    assert Repository(repository).names() == ["r-d4"]


def test_a_run_whose_blocks_cannot_go_or_whose_data_are_gone_is_refused(home: Home, tmp_path: Path) -> None:
    run = tmp_path / "gone"
    shutil.copytree(home.folder / "r", run, ignore=shutil.ignore_patterns("family"))
    text = (run / "training.json").read_text()
    (run / "training.json").write_text(text.replace('"digits"', '"folder:/nowhere"'))
    with pytest.raises(UsageError, match="its data cannot be loaded.*/nowhere"):
        printed_by(home.folder, "export", str(run), "--pareto", "2")
    (run / "spec.json").write_text(small_spec("densenet").model_dump_json())
    with pytest.raises(UsageError, match="no block can be removed"):
        printed_by(home.folder, "export", str(run), "--pareto", "2")
    assert not (run / "family").exists()


@pytest.mark.parametrize(("text", "ms"), [("5ms", 5), ("5 ms", 5), ("0.005s", 5), ("800us", 0.8), (".5 µs", 0.0005)])
def test_a_bound_is_a_time_with_its_unit(text: str, ms: float) -> None:
    assert parse_bound(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["5 apples", "0", "0ms", "-5ms", "nan", "nanms", "inf", "5", "", "5ms 3ms", "1e999s"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--best-under .*: give a time with its unit"):
        parse_bound(text)


def test_a_family_is_found_by_its_name_or_a_members_the_most_accurate_first(home: Home) -> None:
    found = members_of(home)
    assert family_members(home.repository, "r-d5") == found
    assert [one.family.accuracy for one in found] == sorted((one.family.accuracy for one in found), reverse=True)
    with pytest.raises(UsageError, match="q: no such family.*--pareto 3"):
        family_members(home.repository, "q")


def test_members_of_an_older_run_are_members_no_more_and_a_model_of_its_own_is_none(home: Home, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    shutil.copytree(home.repository.root, repository.root)
    card = repository.card("r-d5")
    single = card.model_copy(update={"name": "single", "family": None})
    shutil.copytree(repository.root / "r-d5", repository.root / "single")
    (repository.root / "single/1/card.json").write_text(single.model_dump_json())
    with pytest.raises(UsageError, match="single: not a member of a family"):
        family_members(repository, "single")
    newest = repository.root / "r-d5" / "1" / "card.json"
    assert card.family is not None
    changed = card.family.model_copy(update={"whole_sha256": "f" * 64})
    newest.write_text(card.model_copy(update={"family": changed, "created": "2999-01-01"}).model_dump_json())
    assert [one.card.name for one in family_members(repository, "r")] == ["r-d5"]
    newest.write_text("{")
    with pytest.raises(UsageError, match=r"card\.json"):
        family_members(repository, "r")


@pytest.mark.triton
def test_the_recorded_latency_decides_where_nothing_is_rehearsed(home: Home, server: ServerState) -> None:
    members = members_of(home)
    fastest = min(members, key=lambda one: one.family.latency_ms)
    with client_of(server) as client:
        bound_ms = fastest.family.latency_ms
        choice = choose(client, home.repository, members, bound_ms, manner=RECORDED)
        assert (choice.chosen, choice.measured) == (fastest, False)
        assert {one.verdict for one in choice.tried if one.member.family.latency_ms > bound_ms} <= {
            "too slow",
            "not tried",
        }
        with pytest.raises(ResxError, match=f"fastest is {fastest.card.name}") as error:
            choose(client, home.repository, members, bound_ms / 2, manner=RECORDED)
        assert error.value.exit_code == 3


@pytest.mark.triton
def test_a_member_that_is_not_what_was_verified_ends_the_choice(home: Home, server: ServerState) -> None:
    member = members_of(home)[0]
    wrong = home.repository.version_folder(member.card.name) / member.card.model_file
    right = wrong.read_bytes()
    wrong.write_bytes(right + b"x")
    try:
        with client_of(server) as client, pytest.raises(VersionRejected, match="not the file that was verified"):
            measured_on(client, home.repository, member)
    finally:
        wrong.write_bytes(right)


@pytest.mark.triton
def test_the_most_accurate_member_under_the_bound_answers_and_a_bound_that_none_holds_leaves_it_so(
    resx: Resx, home: Home, server: ServerState
) -> None:
    best = members_of(home)[0]
    done = resx("deploy", "r", "--best-under", "100 s", "--json", "-q", cwd=home.folder)

    assert done.code == 0, done.err
    assert (done.json["name"], done.json["decided_by"], done.json["deployed"]) == (best.card.name, "measured", True)
    first, *others = done.json["members"]
    assert (first["verdict"], first["measured_ms"] > 0) == ("holds", True)
    assert {one["verdict"] for one in others} == {"not tried"}
    with client_of(server) as client:
        assert client.model_versions() == {best.card.name: [1]}
        with pytest.raises(ResxError, match=r"no model of r meets it on grpc://.*; the fastest is r-d\d with"):
            choose(client, home.repository, members_of(home)[-1:], 1e-6)
        assert client.model_versions() == {best.card.name: [1]}
        assert not any(client.is_model_ready(f"~{one.card.name}") for one in members_of(home))
        undeploy(client, home.repository, best.card.name)
    refused(resx("deploy", "r", "--best-under", "5 apples", cwd=home.folder), 2, "--best-under 5 apples")
    with pytest.raises(UsageError, match="--version 1: --best-under"):
        printed_by(home.folder, "deploy", "r", "--best-under", "5ms", "--version", "1")
