"""Versions change under load, good and bad ones: nobody may notice but by the version that an answer names."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.numpy_helper
from benchmarks.fault_clients import Questions, Row, load, publish, published, row_without_loss, serve
from tests.support.cards import agree
from tests.support.running_triton import MODEL

from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import Manner, deploy
from resx.serving.deployment.file_checks import VersionRejected
from resx.serving.deployment.rollback import rollback
from resx.serving.running.server_state import now_s
from resx.serving.running.version_records import read_deployed

MANNER = Manner(trial_s=0.3)


def swaps(times: int) -> list[Row]:
    """Change the version again and again: forward, keeping the one before, and back."""
    seconds: list[float] = []
    with published() as (repository, questions):
        for seed in (1, 2):
            publish(repository, seed=seed)
        publish(repository, seed=0)
        for version in range(2, 5):
            questions.learn(repository, version)
        state = serve(repository)
        with TritonClient(state.address("grpc")) as client, load(state, questions, (0, 0)) as askers:
            answering, seen = 4, {4}
            for number in range(times):
                begun = now_s()
                if number % 5 == 4:
                    done = rollback(client, repository, MODEL)
                else:
                    copy_version(repository, questions, number % 3 + 1)
                    manner = Manner(trial_s=0.3, keep_previous=number % 5 == 3)
                    done = deploy(client, repository, MODEL, manner=manner)
                seconds.append(now_s() - begun)
                if done.previous != answering:
                    raise AssertionError(f"{done} came after version {answering}")
                answering = done.version
                seen.add(answering)
                time.sleep(0.3)
    unseen = seen - {event.version for asker in askers for event in asker.events}
    missed = {f"no answer named version {sorted(unseen)}"} if unseen else set()
    return [row_without_loss("version swaps under load", times, askers, seconds, missed)]


def bad_versions(times: int) -> list[Row]:
    """Deploy versions that cannot be served or that answer wrongly; the one before must go on as if nothing were."""
    rows = []
    for name, spoil in SPOILED.items():
        rows.append(bad_version(name, spoil, max(1, times // len(SPOILED))))
    return rows


def bad_version(name: str, spoil: Callable[[Repository, Path], None], times: int) -> Row:
    """Deploy a version that was spoilt, again and again."""
    seconds: list[float] = []
    missed: set[str] = set()
    with published() as (repository, questions):
        config = repository.root / MODEL / "config.pbtxt"
        good = config.read_text()
        state = serve(repository)
        with TritonClient(state.address("grpc")) as client, load(state, questions, (0, 0)) as askers:
            for _ in range(times):
                begun = now_s()
                folder = copy_version(repository, None, 1)
                spoil(repository, folder)
                try:
                    deploy(client, repository, MODEL, manner=MANNER)
                    missed.add("it was deployed")
                except VersionRejected:
                    seconds.append(now_s() - begun)
                config.write_text(good)
                shutil.rmtree(folder)
                if client.model_versions() != {MODEL: [1]} or read_deployed(repository) != {MODEL: (1,)}:
                    missed.add(f"afterwards {client.model_versions()} were loaded")
                time.sleep(0.2)
    return row_without_loss(f"bad version: {name}", times, askers, seconds, missed)


def copy_version(repository: Repository, questions: Questions | None, of: int) -> Path:
    """Publish a version's files once more, as the newest; exporting would take longer than deploying."""
    number = repository.versions(MODEL)[-1] + 1
    folder = repository.root / MODEL / str(number)
    shutil.copytree(repository.root / MODEL / str(of), folder)
    if questions:
        questions.expected[number] = questions.expected[of]
    return folder


def _truncate(_repository: Repository, folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:1000])
    agree(folder)


def _other_shape(_repository: Repository, folder: Path) -> None:
    _, other = publish(Repository(folder.parents[2] / "elsewhere"), classes=7)
    shutil.copy(other.folder / "model.onnx", folder / "model.onnx")
    agree(folder)


def _other_weights(_repository: Repository, folder: Path) -> None:
    _, other = publish(Repository(folder.parents[2] / "elsewhere"), seed=9)
    shutil.copy(other.folder / "model.onnx", folder / "model.onnx")
    agree(folder)


def _nan(_repository: Repository, folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: onnx.numpy_helper.to_array(tensor).size)
    values = onnx.numpy_helper.to_array(weights).copy()
    values.flat[0] = float("nan")
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, folder / "model.onnx")
    agree(folder)


def _bad_config(repository: Repository, _folder: Path) -> None:
    config = repository.root / MODEL / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "logits"', 'name: "nothing"'))


SPOILED: dict[str, Callable[[Repository, Path], None]] = {
    "corrupt file": _truncate,
    "wrong shape": _other_shape,
    "wrong weights": _other_weights,
    "NaN": _nan,
    "config error": _bad_config,
}
