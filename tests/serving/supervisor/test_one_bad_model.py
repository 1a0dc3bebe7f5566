"""One model fails, and the others are not to notice: the same server, the same processes, no request lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from resx.errors import ResxError
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.file_checks import VersionRejected
from resx.serving.running.server_state import ServerState, running_server
from resx.serving.running.version_records import read_deployed
from resx.serving.supervisor import detaching
from tests.support import bad_models
from tests.support.bad_models import Spoil, serve_unproved
from tests.support.command import Finished
from tests.support.running_triton import FREE, current, stubs_of, wait_until
from tests.support.tiny_models import publish_tiny

pytestmark = pytest.mark.triton
IMAGE = np.zeros((1, 3, 16, 16), np.uint8)
PARTS = ("seen_preprocess", "seen_postprocess", "seen_image")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """`good`, and `seen` with an image endpoint: made once, as an export takes seconds."""
    repository = Repository(tmp_path_factory.mktemp("published") / "model_repository")
    publish_tiny(repository, "good")
    publish_tiny(repository, "seen", seed=1, image_endpoint=True)
    return repository


@pytest.fixture
def repository(tmp_path: Path, published: Repository) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    shutil.copytree(published.root / "good", repository.root / "good")
    yield repository
    if running_server(repository):
        detaching.stop(repository)


def publish_bad(repository: Repository, spoil: Spoil, name: str = "bad") -> Path:
    """Add a copy of `good` as the next version of `name`, and spoil it."""
    model, version = repository.root / name, len(repository.versions(name)) + 1
    shutil.copytree(repository.root / "good" / "1", model / str(version))
    for file in ("config.pbtxt", "labels.txt"):
        text = (repository.root / "good" / file).read_text()
        (model / file).write_text(text.replace('name: "good"', f'name: "{name}"'))
    card = model / str(version) / "card.json"
    card.write_text(card.read_text().replace('"name": "good"', f'"name": "{name}"', 1))
    spoil(model / str(version))
    return model / str(version)


@contextlib.contextmanager
def undisturbed(repository: Repository, state: ServerState) -> Iterator[None]:
    """Ask `good` all the time; at the end it has lost nothing, and its server and its process are the same."""
    halt, errors, answered = threading.Event(), [], [0]

    def ask() -> None:
        with TritonClient(state.address("grpc"), timeout_s=60) as client:
            interface = client.interface("good")
            expected = client.infer("good", interface, IMAGE).logits
            while not halt.is_set():
                try:
                    same = np.allclose(client.infer("good", interface, IMAGE).logits, expected, rtol=1e-3, atol=1e-4)
                    errors.extend([] if same else ["another answer"])
                except ResxError as error:
                    errors.append(str(error))
                answered[0] += 1

    stubs, asker = stubs_of(state, "good"), threading.Thread(target=ask, daemon=True)
    asker.start()
    try:
        yield
        already = answered[0]
        wait_until(lambda: answered[0] > already + 100, "a hundred more were answered")
    finally:
        halt.set()
        asker.join(60)
    assert errors == []
    after = current(repository)
    assert (after.server_pid, after.phase) == (state.server_pid, "serving")
    assert stubs_of(after, "good") == stubs


def is_set_aside(repository: Repository, *names: str) -> None:
    wait_until(lambda: set(names) <= set(current(repository).set_aside), f"{names} set aside")
    assert read_deployed(repository).keys().isdisjoint(names)
    with TritonClient(current(repository).address("grpc")) as client:
        wait_until(lambda: client.model_versions().keys().isdisjoint(names), "unloaded")


WRONG: dict[str, tuple[Spoil, str]] = {
    "far": (bad_models.misjudged, "the served answer differs from the card's by "),
    "little": (bad_models.misjudged_a_little, "the served answer differs from the card's by 0.002 of its scale"),
    "nan": (bad_models.not_a_number, "the served answer is not finite"),
    "shape": (
        bad_models.another_shape,
        "the served answer does not match: 9 values per row; its configuration says 10",
    ),
    "error": (bad_models.failing, "grpc://"),
    "company": (bad_models.dependent_on_company, "the served answer differs from the card's"),
}


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_models_that_answer_wrongly_are_set_aside_and_the_others_do_not_notice(
    repository: Repository, resx: Callable[..., Finished], native: bool
) -> None:
    """Six at once, each of another kind."""
    for name, (spoil, _) in WRONG.items():
        publish_bad(repository, spoil, name)
    state = detaching.serve_detached(repository, FREE, ["--load=good", *(["--native"] if native else [])])
    with undisturbed(repository, state):
        for name in WRONG:
            serve_unproved(state, repository, name)
        is_set_aside(repository, *WRONG)
    status = resx("status", f"--repository={repository.root}")
    assert status.code == 0
    for name, (_, reason) in WRONG.items():
        assert f"{name} is set aside, the other models keep serving: {name} version 1: {reason}" in status.out
    found = resx("status", f"--repository={repository.root}", "--json").json
    assert (found["phase"], found["recovering"], found["trouble"]) == ("serving", {}, "")
    assert [(model["name"], model["ready"]) for model in found["models"]] == [("good", True)]
    tries = Path(state.log).read_text()
    assert all(tries.count(f"try 1 to recover {name} failed: ") == 1 for name in WRONG), "each was loaded again once"
    assert "try 2 to recover" not in tries


@pytest.mark.slow
def test_what_is_set_aside_stays_so_through_a_new_server_until_it_is_deployed(repository: Repository) -> None:
    folder = publish_bad(repository, lambda _folder: None)
    right = (folder / "card.json").read_text()
    bad_models.misjudged(folder)
    state = detaching.serve_detached(repository, FREE, ["--load=good"])
    serve_unproved(state, repository, "bad")
    is_set_aside(repository, "bad")

    os.kill(state.server_pid, signal.SIGKILL)

    wait_until(lambda: current(repository).server_pid != state.server_pid, "a new server")
    wait_until(lambda: current(repository).phase == "serving", "serving")
    assert current(repository).set_aside.keys() == {"bad"}
    with TritonClient(state.address("http")) as client:
        assert client.model_versions() == {"good": [1]}
        with pytest.raises(VersionRejected, match="differs from the card's"):
            deploy(client, repository, "bad")
        assert current(repository).set_aside.keys() == {"bad"}
        (folder / "card.json").write_text(right)
        deploy(client, repository, "bad")
        assert client.model_versions() == {"bad": [1], "good": [1]}
    wait_until(lambda: current(repository).set_aside == {}, "it is set aside no more")


@pytest.mark.slow
def test_a_model_that_fails_after_a_crash_is_set_aside_and_the_server_is_not_started_again(
    repository: Repository,
) -> None:
    folders = {name: publish_bad(repository, lambda _folder: None, name) for name in ("wrong", "broken", "gone")}
    state = detaching.serve_detached(repository, FREE, ["--tries=2"])
    bad_models.misjudged(folders["wrong"])
    (folders["broken"] / "model.onnx").write_bytes(b"broken")
    shutil.rmtree(folders["gone"].parent)

    os.kill(state.server_pid, signal.SIGKILL)

    wait_until(lambda: set(current(repository).set_aside) == {"wrong", "broken", "gone"}, "all three set aside")
    after = current(repository)
    log = Path(after.log).read_text()
    assert log.count("restart the server:") == 1
    with TritonClient(state.address("http")) as client:
        assert client.model_versions() == {"good": [1]}


@pytest.mark.slow
def test_a_bad_version_takes_its_model_out_and_another_version_can_be_deployed(repository: Repository) -> None:
    publish_bad(repository, lambda _folder: None, "two")
    publish_bad(repository, bad_models.misjudged, "two")
    assert repository.versions("two") == [1, 2]
    state = detaching.serve_detached(repository, FREE, ["--load=good"])
    with undisturbed(repository, state):
        serve_unproved(state, repository, "two", 1, 2)
        is_set_aside(repository, "two")
    assert current(repository).set_aside["two"].startswith("two version 2: ")
    with TritonClient(state.address("grpc")) as client:
        assert deploy(client, repository, "two", 1).version == 1
    wait_until(lambda: current(repository).set_aside == {}, "two is back")


def test_the_only_model_is_set_aside_and_the_server_stays(
    repository: Repository, resx: Callable[..., Finished]
) -> None:
    bad_models.misjudged(repository.version_folder("good"))
    command = [sys.executable, "-m", "resx", "serve", f"--repository={repository.root}", "--load-none",
               "--http-port=0", "--grpc-port=0", "--metrics-port=0"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: running_server(repository) is not None or process.poll() is not None, "it serves")
        assert process.poll() is None, process.communicate()
        state = current(repository)
        serve_unproved(state, repository, "good")
        is_set_aside(repository, "good")
        status = resx("status", f"--repository={repository.root}")
        os.kill(state.server_pid, signal.SIGKILL)
        wait_until(lambda: current(repository).restarts == 1, "an empty server is started again, too")
        assert process.poll() is None
        detaching.stop(repository)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0
    assert status.code == 0
    assert "good is set aside: good version 1: the served answer differs" in status.out
    assert "no model is loaded" in status.out
    assert out.startswith("✓ Ready: http://127.0.0.1:")
    lines = [line.strip() for line in err.splitlines()]
    assert lines[0].startswith("✓ Started tritonserver  "), "steps have their times"
    assert lines[1] == "Serving. Ctrl-C to stop."
    assert [
        line for line in lines if line.startswith("good is set aside, the other models keep serving: good version 1: ")
    ]


@pytest.mark.slow
def test_a_stub_that_dies_again_and_again_is_set_aside_without_a_new_server(repository: Repository) -> None:
    publish_bad(repository, lambda _folder: None)
    state = detaching.serve_detached(repository, FREE, ["--tries=2"])
    with undisturbed(repository, state):

        def killed() -> bool:
            back = "bad" not in current(repository).recovering  # a stub that is killed as it starts may hang Triton
            for pid in stubs_of(state, "bad") if back else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return "bad" in current(repository).set_aside

        wait_until(killed, "set aside")
        is_set_aside(repository, "bad")


@pytest.mark.slow
def test_a_model_that_hangs_is_ended_and_set_aside(repository: Repository) -> None:
    publish_bad(repository, bad_models.hanging)
    state = detaching.serve_detached(repository, FREE, ["--load=good", "--canary-timeout=2"])
    with undisturbed(repository, state):
        serve_unproved(state, repository, "bad")
        is_set_aside(repository, "bad")
        wait_until(lambda: not stubs_of(state, "bad"), "its processes are gone")


@pytest.mark.slow
def test_an_image_endpoint_goes_with_its_model_and_comes_back_with_it(
    repository: Repository, published: Repository, resx: Callable[..., Finished]
) -> None:
    for part in ("seen", *PARTS):
        shutil.copytree(published.root / part, repository.root / part)
    folder = repository.version_folder("seen")
    right = (folder / "card.json").read_text()
    state = detaching.serve_detached(repository, FREE, ["--tries=1"])
    bad_models.misjudged(folder)
    with undisturbed(repository, state):
        os.kill(stubs_of(state, "seen")[0], signal.SIGKILL)  # loaded again, it must prove itself
        is_set_aside(repository, "seen", *PARTS)
    assert current(repository).set_aside["seen_image"] == "it needs seen"
    (folder / "card.json").write_text(right)
    with TritonClient(state.address("grpc")) as client:
        deploy(client, repository, "seen")
        assert client.model_versions().keys() == {"good", "seen", *PARTS}
        wait_until(lambda: current(repository).set_aside == {}, "back")

        (repository.root / "seen_preprocess" / "1" / "model.py").write_text("no python")
        with undisturbed(repository, state):
            os.kill(stubs_of(state, "seen_preprocess")[0], signal.SIGKILL)
            is_set_aside(repository, *PARTS)
        assert client.model_versions().keys() == {"good", "seen"}, "tensors are still answered"
    assert "retry with `resx deploy seen`" in resx("status", f"--repository={repository.root}").out


@pytest.mark.slow
def test_a_model_of_an_onnx_file_alone_is_loaded_again_without_a_new_server(repository: Repository) -> None:
    bare = repository.root / "bare"
    (bare / "1").mkdir(parents=True)
    (bare / "1" / "model.onnx").write_bytes((repository.version_folder("good") / "model.onnx").read_bytes())
    state = detaching.serve_detached(repository, FREE)
    with undisturbed(repository, state):
        os.kill(stubs_of(state, "bare")[0], signal.SIGKILL)
        wait_until(lambda: current(repository).restarts == 1, "loaded again")
        with TritonClient(state.address("grpc")) as client:
            assert client.infer("bare", client.interface("bare"), IMAGE).version == 1


def test_the_canary_is_asked_in_the_rows_that_were_recorded(repository: Repository) -> None:
    """A file whose rows depend on their batch, with a card of what it answers to two rows at once, is right."""
    from resx.card import canary_rows
    from resx.card import card as cards
    from resx.runtimes.onnxruntime_model import OnnxRuntimeModel

    folder = publish_bad(repository, bad_models.dependent_on_company)
    card = cards.read_card(folder)
    answer = OnnxRuntimeModel(folder / "model.onnx")(canary_rows.canary_input(card.signature, card.canary.num_images))
    fields = json.loads((folder / "card.json").read_text())
    fields["canary"]["logits"] = answer.tolist()
    (folder / "card.json").write_text(json.dumps(fields))
    state = detaching.serve_detached(repository, FREE)
    with TritonClient(state.address("grpc")) as client:
        begun = int(client.statistics("bad")[0]["inference_stats"]["success"]["count"])

        def asked() -> int:
            return int(client.statistics("bad")[0]["inference_stats"]["success"]["count"]) - begun

        wait_until(lambda: asked() >= 2, "two canaries")
    assert current(repository) == state
