"""What a supervisor must see without being told, and outlive: a folder that is gone, a stub that the cache covers up.

Bars: nothing wrong, nothing lost by clients that retry, serving again within 20 s; the model without a folder is set
aside with its reason, the others come back.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from benchmarks.fault_clients import Asker, Questions, Row, load, published, row_without_loss, serve
from tests.support.running_triton import MODEL, current, stub_of, wait_until

from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.serving.running.server_state import now_s

RETRIES = 12
_SERVING_S = 20.0
_FRESH = 20_000
"""Images that the cache has not seen; a client asks one after the other."""


def folder_deleted(times: int) -> list[Row]:
    """Delete a deployed model's folder, then kill tritonserver: only that model is out of service."""
    seconds: list[float] = []
    missed: set[str] = set()
    with published() as (repository, questions):
        for number in range(times):
            _copy(repository, f"gone{number}")
        state = serve(repository)
        with load(state, questions, (RETRIES, RETRIES)) as askers:
            for number in range(times):
                time.sleep(1.2)  # a recovery that does not hold for a second counts as failed
                name, state = f"gone{number}", current(repository)
                shutil.rmtree(repository.root / name)
                begun = now_s()
                os.kill(state.server_pid, signal.SIGKILL)
                seconds.append(_answered_again_s(repository, state.restarts, askers, begun))
                wait_until(lambda name=name: name in current(repository).set_aside, f"{name} is set aside")
                if "no such folder" not in current(repository).set_aside[name]:
                    missed.add(f"{name}: {current(repository).set_aside[name]}")
    return [row_without_loss("folder deleted, Triton killed, retries", times, askers, seconds, missed | _slow(seconds))]


def stub_stopped_with_cache(times: int) -> list[Row]:
    """Stop the stub of a model with a response cache: what was asked before is answered on, the rest is not."""
    seconds: list[float] = []
    with published() as (repository, asked_again):
        config = repository.root / MODEL / CONFIG_FILE
        config.write_text(config.read_text() + "response_cache { enable: true }\n")
        images = np.random.default_rng(1).integers(0, 256, (_FRESH, 3, 16, 16), dtype=np.uint8)
        fresh = Questions(images=images, expected={})
        fresh.learn(repository, 1)
        state = serve(repository)
        with load(state, asked_again, (RETRIES,)) as cached, load(state, fresh, (RETRIES,)) as askers:
            for _ in range(times):
                time.sleep(1.2)
                state = current(repository)
                begun = now_s()
                os.kill(stub_of(state), signal.SIGSTOP)
                seconds.append(_answered_again_s(repository, state.restarts, askers, begun))
    row = row_without_loss("stub stopped, cache on, retries", times, [*cached, *askers], seconds, _slow(seconds))
    computed = sum(len(asker.events) for asker in askers)
    return [replace(row, note=f"{computed} of the requests were new to the cache")]


def _answered_again_s(repository: Repository, restarts: int, askers: Sequence[Asker], begun: float) -> float:
    """Wait until every client was answered that asked after the recovery; return how long after `begun`."""
    wait_until(lambda: current(repository).restarts > restarts, "the supervisor noticed and recovered")
    before = [len(asker.events) for asker in askers]
    wait_until(
        lambda: all(len(asker.events) > start + 1 for asker, start in zip(askers, before, strict=True)),
        "every client was answered again",
    )
    return now_s() - begun


def _slow(seconds: Sequence[float]) -> set[str]:
    return {f"serving again after {max(seconds):.1f} s"} if max(seconds) > _SERVING_S else set()


def _copy(repository: Repository, name: str) -> None:
    shutil.copytree(repository.root / MODEL, repository.root / name)
    for file in (CONFIG_FILE, "1/card.json"):
        path = repository.root / name / file
        path.write_text(path.read_text().replace(f'"{MODEL}"', f'"{name}"', 1))
