"""Commands are killed at any moment, and disks fill up: the repository must be valid, and what was served be served."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fault_clients import Row, load, publish, published, row_without_loss, serve
from benchmarks.fault_deploys import copy_version
from tests.support.running_triton import MODEL, current
from tests.support.small_disk import small_disk

from resx.errors import ResxError
from resx.files.staging import sha256_of
from resx.repository import config_pbtxt
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.rehearsal import rehearsal_name
from resx.serving.running.server_state import now_s

_SEED = 0
EXPORT = ["export", "resnet20", "--weights", "none"]


def killed_exports(times: int) -> list[Row]:
    """SIGKILL `resx export` at a random moment; in the end one that is left alone must succeed."""
    chance, missed, seconds = random.Random(_SEED), set[str](), []
    with tempfile.TemporaryDirectory(prefix="resx-faults-") as folder:
        repository = Repository(Path(folder) / "model_repository")
        command = [sys.executable, "-m", "resx", *EXPORT, "--force", "-q", f"--repository={repository.root}"]
        begun = now_s()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        takes_s = now_s() - begun
        intact = _hashes(repository)
        for _ in range(times):
            _killed_after(command, chance.uniform(0.3, 1.05) * takes_s)
            missed |= _invalid(repository, intact)
            intact |= _hashes(repository)
        begun = now_s()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(now_s() - begun)
        missed |= _invalid(repository, intact)
        left = list(repository.root.parent.glob(".*/.staging-*"))
        if left:
            missed.add(f"{left[0]} was left")
    return [
        Row(
            fault="SIGKILL of resx export",
            times=times,
            sent=0,
            lost=0,
            wrong=0,
            seconds=tuple(seconds),
            missed=tuple(sorted(missed)),
        )
    ]


def killed_deploys(times: int) -> list[Row]:
    """SIGKILL `resx deploy` at a random moment, under load; the next one must succeed and clear up."""
    chance, missed, seconds = random.Random(_SEED), set[str](), []
    with published() as (repository, questions):
        publish(repository, seed=1)
        questions.learn(repository, 2)
        state = serve(repository)
        with TritonClient(state.address("grpc")) as client, load(state, questions, (0, 0)) as askers:
            for _ in range(times):
                copy_version(repository, questions, chance.choice((1, 2)))
                command = [sys.executable, "-m", "resx", "deploy", MODEL, "-q", "--trial=0.5",
                           f"--repository={repository.root}"]  # fmt: skip
                _killed_after(command, chance.uniform(0.5, 6.0))
                if chance.random() < 0.2:
                    begun = now_s()
                    version = deploy(client, repository, MODEL).version
                    seconds.append(now_s() - begun)
                    if client.model_versions() != {MODEL: [version]} or client.is_model_ready(rehearsal_name(MODEL)):
                        missed.add(f"the next deployment left {client.model_versions()}")
            version = deploy(client, repository, MODEL).version
            if client.model_versions() != {MODEL: [version]} or client.is_model_ready(rehearsal_name(MODEL)):
                missed.add(f"the last deployment left {client.model_versions()}")
            if current(repository).restarts:
                missed.add(f"the server was brought back: {current(repository).last_recovery}")
    return [row_without_loss("SIGKILL of resx deploy, under load", times, askers, seconds, missed)]


def disk_full(times: int) -> list[Row]:
    """Export onto a disk that is full before it is done: a small tmpfs, or, where none can be mounted, a file limit."""
    chance, missed, failures = random.Random(_SEED), set[str](), 0
    with (
        tempfile.TemporaryDirectory(prefix="resx-faults-") as folder,
        small_disk(Path(folder) / "model_repository") as (root, limit),
    ):
        repository = Repository(root)
        _, first = publish(repository)
        needed = sum(path.stat().st_size for path in first.folder.iterdir())
        intact = _hashes(repository)
        for _ in range(times):
            with limit(int(chance.uniform(0, 0.9) * needed)):
                try:
                    publish(repository, seed=1)
                    missed.add("it fitted")
                except (ResxError, OSError):
                    failures += 1
            missed |= _invalid(repository, intact)
        _, last = publish(repository, seed=1)
        missed |= _invalid(repository, intact)
        if last.version != 2 or failures != times:
            missed.add(f"{failures} exports failed, and version {last.version} came last")
        what = "tmpfs" if root.is_mount() else "RLIMIT_FSIZE"
    return [
        Row(
            fault=f"disk full in an export ({what})",
            times=times,
            sent=0,
            lost=0,
            wrong=0,
            seconds=(),
            missed=tuple(sorted(missed)),
        )
    ]


def _killed_after(command: Sequence[str], seconds: float) -> None:
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    time.sleep(0.05)


def _hashes(repository: Repository) -> dict[Path, str]:
    """Return what every version's files are."""
    return {
        path: sha256_of(path)
        for name in repository.names()
        for version in repository.versions(name)
        for path in repository.version_folder(name, version).iterdir()
    }


def _invalid(repository: Repository, intact: dict[Path, str]) -> set[str]:
    """Return what is wrong with a repository: old files that changed, versions that are not whole, strange folders."""
    found = {
        f"{path.name} of version {path.parent.name} changed"
        for path in intact
        if not path.is_file() or sha256_of(path) != intact[path]
    }
    for folder in repository.root.iterdir():
        if folder.name.startswith(".staging-"):  # a mount point has no room beside it; Triton takes no such name
            continue
        if not folder.is_dir() or folder.name not in repository.names():
            found.add(f"{folder.name} is no model")
            continue
        config_pbtxt.parse((folder / "config.pbtxt").read_text())
        for version in repository.versions(folder.name):
            for file, expected in repository.card(folder.name, version).files.items():
                if sha256_of(folder / str(version) / file) != expected:
                    found.add(f"version {version} is not whole")
    return found
