"""An int8 version that was verified on another processor proves itself again on the one that serves, or stays out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resx.export.pipeline import export_version
from resx.machine import instruction_set
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.file_checks import VersionRejected
from resx.serving.deployment.served_model import canary
from resx.serving.embedded.int8_versions import ask_foreign_int8
from resx.serving.embedded.machine_checks import check_machine
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.int8_models import options, tiny

OTHER = "neon" if instruction_set() != "neon" else "avx2"


def publish(repository: Repository, name: str, *, verified_on: str, is_wrong: bool = False) -> Path:
    """Publish the tiny network in int8, with a card that another processor might have written."""
    with repository.stage() as folder:
        card = export_version(tiny(), options(), folder, name=name, command="x")
        published = repository.publish(folder, card, ServingOptions())
    path = published.folder / "card.json"
    fields = json.loads(path.read_text())
    fields["runtime"]["instruction_set"] = verified_on
    if is_wrong:
        fields["int8_rows"]["logits"] = [[2 * value for value in row] for row in fields["int8_rows"]["logits"]]
    path.write_text(json.dumps(fields))
    return published.folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("int8") / "model_repository")
    publish(made, "same", verified_on=instruction_set(), is_wrong=True)  # its rows are not asked
    publish(made, "other", verified_on=OTHER)
    publish(made, "wrong", verified_on=OTHER, is_wrong=True)
    return made


@pytest.fixture(scope="module")
def client(repository: Repository) -> Iterator[TritonClient]:
    state = detaching.serve_detached(repository, Ports(http=0, grpc=0, metrics=0), ["--load-none"])
    with TritonClient(state.address("grpc")) as made:
        yield made
    if running_server(repository):
        detaching.stop(repository)


def test_doctor_asks_the_files_again_and_says_which_are_wrong_here(repository: Repository) -> None:
    found = {one.name: one for one in ask_foreign_int8(repository, instruction_set())}
    assert sorted(found) == ["other", "wrong"]
    assert (found["other"].passed, found["wrong"].passed) == (True, False)
    assert f"verified on {OTHER}, served on {instruction_set()}: checked again" in found["other"].detail
    states = {one.what: (one.state, one.remedy) for one in check_machine(repository.root)}
    assert states["other version 1"] == ("found", "")
    assert states["wrong version 1"] == ("wrong", "export it on this processor, or in another precision")


def test_doctor_has_nothing_to_say_where_there_is_no_repository(tmp_path: Path) -> None:
    assert list(ask_foreign_int8(Repository(tmp_path / "none"), "avx2")) == []


def test_a_damaged_card_does_not_stop_doctor(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    folder = publish(repository, "m", verified_on=OTHER)
    (folder / "card.json").write_text("{")
    assert list(ask_foreign_int8(repository, instruction_set())) == []


@pytest.mark.triton
def test_a_version_of_another_processor_is_asked_again_and_said_so(
    repository: Repository, client: TritonClient
) -> None:
    said: list[str] = []
    deploy(client, repository, "other", on_step=said.append)
    wanted = f"check int8 on this processor: verified on {OTHER}, served on {instruction_set()}"
    assert wanted in said
    said.clear()
    deploy(client, repository, "same", on_step=said.append)
    assert not any("int8" in step for step in said)


@pytest.mark.triton
def test_a_version_that_answers_otherwise_here_is_not_deployed(repository: Repository, client: TritonClient) -> None:
    with pytest.raises(VersionRejected, match=f"int8 verified on {OTHER}, served on {instruction_set()}"):
        deploy(client, repository, "wrong")
    assert "wrong" not in client.model_versions()


@pytest.mark.triton
@pytest.mark.parametrize(("processor", "passes"), [(OTHER, True), (instruction_set(), False), ("", False)])
def test_the_servers_processor_decides(
    processor: str, passes: bool, repository: Repository, client: TritonClient
) -> None:
    client.load("wrong")
    card = repository.card("wrong", 1)
    try:
        if passes:
            canary(client, "wrong", 1, card, processor=processor)
        else:
            with pytest.raises(Exception, match="answers differ by"):
                canary(client, "wrong", 1, card, processor=processor)
    finally:
        client.unload("wrong")


@pytest.mark.triton
def test_serve_says_which_versions_are_asked_again_and_sets_a_wrong_one_aside(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish(repository, "other", verified_on=OTHER)
    publish(repository, "wrong", verified_on=OTHER, is_wrong=True)
    free = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    try:
        done = resx("serve", "--detach", *free, "--repository", repository.root)
        assert f"other version 1: int8 verified on {OTHER}, served on {instruction_set()}; checked again" in done.err
        assert "other version 1" in done.out
        assert "wrong is set aside" in done.out
    finally:
        resx("stop", "--repository", repository.root)


@pytest.mark.triton
def test_the_command_ends_with_3(repository: Repository, client: TritonClient, resx: Callable[..., Finished]) -> None:
    done = resx("deploy", "wrong", "--repository", repository.root, "--url", f"grpc://{client.address.host_port}")
    assert done.code == 3
    assert "export it on a processor like this one" in done.err
