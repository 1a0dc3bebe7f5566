"""Run a version's own file without a server: what serving it could give at most.

Served divided by in-process throughput says what a server costs only if both run the same file with the same
sessions. So a fresh process opens the file through the served backend's own code, `onnx_session.py` or
`engine_session.py`, with the model's config.pbtxt, once for each instance; each session computes one batch
after the other. When the process ends, its memory and threads are gone.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.bench.results.result import InProcess
from resx.bench.subprocess_run import run_apart
from resx.card.card import Card
from resx.errors import MissingCapability, ResxError, UsageError, first_line
from resx.gpus import Device
from resx.serving.embedded.backend_session import THREADS, backend_of, open_version, served_config
from resx.serving.embedded.backends.config_values import num_instances
from resx.serving.embedded.installation.provider_engines import cache_environment
from resx.serving.embedded.model_runtime import require_runtime
from resx.serving.running.process_use import memory_of

WARMUP_SHARE, MOST_WARMUP_S = 0.2, 2.0
_START_S, _BATCH_S = 120.0, 60.0
"""How long opening the file, and one batch, may take before the process is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InProcessRun:
    """What the file did without a server."""

    images_per_s: float
    p50_ms: float
    """Of one run of the batch."""
    num_batches: int
    """That were measured, over all instances."""
    batch_size: int
    threads: int
    """Of one instance."""
    instances: int
    logits: tuple[npt.NDArray[np.float32], ...]
    """The answer [N, classes] to each tensor."""
    memory_bytes: int | None = None
    """By how much the process grew when it opened and ran the file; None: the kernel does not say."""

    def compared(self, served_images_per_s: float) -> InProcess:
        """Return it as a result holds it, with the served throughput's share of this one."""
        return InProcess(
            images_per_s=self.images_per_s,
            p50_ms=self.p50_ms,
            batch_size=self.batch_size,
            threads=self.threads,
            instances=self.instances,
            efficiency=served_images_per_s / self.images_per_s,
        )


_DEVICES: dict[str, Device] = {"tensorrt": "gpu", "openvino": "cpu"}
"""Of backends that compute on one alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What the process is told."""

    path: str
    config: dict[str, Any]
    """config.pbtxt as Triton's JSON, which is what the backend reads."""
    instances: int
    duration_s: float
    tensors: tuple[npt.NDArray[Any], ...]
    device: Device = "cpu"
    backend: str = "onnxruntime"
    """The folder of its files."""


def measure_in_process(
    version_folder: Path,
    card: Card,
    batch_size: int,
    *,
    instances: int,
    threads: int,
    duration_s: float,
    tensors: Sequence[npt.NDArray[Any]],
    device: Device = "cpu",
) -> InProcessRun:
    """Run the version's file in a closed loop, each instance one batch after the other.

    Args:
        version_folder: of the repository; the model's config.pbtxt lies in the folder above, if it has one.
        card: the version's.
        batch_size: rows of each tensor.
        instances: sessions that run at the same time; 0: as many as config.pbtxt says.
        threads: of one instance; 0: as many as the served backend takes under config.pbtxt.
        duration_s: of the measurement; a warm-up of a fifth of it, 2 s at most, comes before.
        tensors: inputs [N, ...], taken in turn.
        device: what instances compute on, but those of KIND_CPU.

    Raises:
        MissingCapability: onnxruntime is not installed; or it is an engine, and its package or a GPU is missing.
        UsageError: the file does not take that batch, or config.pbtxt cannot be read.
        ResxError: the runtime refuses the file or fails; its own reason.
    """
    require_runtime(version_folder.parent, card, embedded=True, device=None)
    _require(card, batch_size, instances, threads, duration_s, tensors)
    config = _config(version_folder.parent, card, instances, threads)
    if card.engine is not None:
        config["backend"] = card.engine.builder
    backend = backend_of(config)
    if backend == "onnxruntime" and importlib.util.find_spec("onnxruntime") is None:
        raise MissingCapability("onnxruntime is not installed, so nothing runs in process; pip install 'resx[cpu]'")
    job = _Job(
        path=str(version_folder / card.model_file),
        config=config,
        instances=num_instances(config),
        duration_s=duration_s,
        tensors=tuple(np.ascontiguousarray(tensor) for tensor in tensors),
        device=_DEVICES.get(backend, device),
        backend=backend,
    )
    most_s = _START_S + _BATCH_S * (len(tensors) + 2) + duration_s
    runtime = backend if card.engine is None else card.engine.builder
    return run_apart(_compute, job, InProcessRun, f"{card.name}: {runtime} in process", most_s)


def _config(model_folder: Path, card: Card, instances: int, threads: int) -> dict[str, Any]:
    """Return the served configuration with what was asked for instead."""
    config = served_config(model_folder, card)
    if instances:
        config["instance_group"] = [{"count": instances}]
    if threads:
        parameters = config.setdefault("parameters", {})
        for key, value in THREADS[backend_of(config)].items():
            parameters[key] = {"string_value": value.format(threads)}
    return config


def _require(
    card: Card, batch_size: int, instances: int, threads: int, duration_s: float, tensors: Sequence[npt.NDArray[Any]]
) -> None:
    fixed = card.signature.batch
    if fixed is not None and batch_size != fixed:
        raise UsageError(f"batch_size={batch_size}: {card.name} takes exactly {fixed}; give --batch-size {fixed}")
    if fixed is None and not 1 <= batch_size <= card.max_batch_size:
        raise UsageError(f"batch_size={batch_size}: {card.name} takes 1 to {card.max_batch_size}; give one of them")
    if instances < 0 or threads < 0:
        raise UsageError(f"instances={instances}, threads={threads}: give 1 or more, or 0 for what is served")
    if not 0 < duration_s < float("inf"):
        raise UsageError(f"duration_s={duration_s}: give a time above 0 s")
    shape = (batch_size, *card.signature.input_dims)
    for tensor in tensors:
        if tensor.shape != shape:
            raise UsageError(f"a tensor of shape {list(tensor.shape)}: {card.name} takes {list(shape)} here; give that")
    if not tensors:
        raise UsageError("no tensors: give one or more to compute")


def _compute(job: _Job, pipe: Pipe) -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found: InProcessRun | str = _measure(job)
    except Exception as error:  # whatever the runtime raises is told to who asked
        found = first_line(error)
    pipe.send(found)


def _measure(job: _Job) -> InProcessRun:
    if job.device == "gpu":
        os.environ.update(cache_environment())  # the engines that the server built
    before_bytes = _resident_bytes()
    opened = [open_version(job.path, job.config, job.backend, job.device) for _ in range(job.instances)]
    run, options = opened[0].run, opened[0].options
    (taken, *_), given = opened[0].interface
    name, outputs = taken.name, [output.name for output in given]
    answers = [run(outputs, {name: tensor}, options)[0] for tensor in job.tensors]
    warmup_s = min(MOST_WARMUP_S, WARMUP_SHARE * job.duration_s)
    start = threading.Barrier(job.instances)
    times: list[list[int]] = [[] for _ in opened]
    failures: list[Exception] = []

    def loop(number: int) -> None:
        """Note when the measurement began and when each batch was done, in ns."""
        run, done = opened[number].run, times[number]
        turn = number
        try:
            start.wait()
            begun = time.monotonic()
            while (elapsed := time.monotonic() - begun) < warmup_s + job.duration_s:
                if elapsed >= warmup_s and not done:
                    done.append(time.monotonic_ns())
                run(outputs, {name: job.tensors[turn % len(job.tensors)]}, options)
                turn += 1
                if done:
                    done.append(time.monotonic_ns())
        except Exception as error:
            failures.append(error)

    loops = [threading.Thread(target=loop, args=(number,)) for number in range(job.instances)]
    for thread in loops:
        thread.start()
    for thread in loops:
        thread.join()
    if failures:
        raise failures[0]
    found = _summary(job, times, opened[0].threads, answers)
    after_bytes = _resident_bytes()
    if before_bytes is None or after_bytes is None:
        return found
    return replace(found, memory_bytes=max(0, after_bytes - before_bytes))


def _resident_bytes() -> int | None:
    use = memory_of([os.getpid()])
    return None if use is None else use.rss_bytes


def _summary(job: _Job, times: list[list[int]], threads: int, answers: list[npt.NDArray[Any]]) -> InProcessRun:
    batch_size = len(job.tensors[0])
    batches_ms = [(after - before) / 1e6 for done in times for before, after in itertools.pairwise(done)]
    if not batches_ms:
        raise ResxError("not one batch ended in time; measure longer")
    # Each instance's own time, so that no part of a batch is lost at the end.
    per_s = sum((len(done) - 1) / ((done[-1] - done[0]) / 1e9) for done in times if len(done) > 1)
    return InProcessRun(
        images_per_s=per_s * batch_size,
        p50_ms=statistics.median(batches_ms),
        num_batches=len(batches_ms),
        batch_size=batch_size,
        threads=threads,
        instances=job.instances,
        logits=tuple(answer.reshape(len(answer), -1).astype(np.float32) for answer in answers),
    )
