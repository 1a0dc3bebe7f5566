"""The demo's acts: each is what a command does, called in order, and its figures kept.

It uses all the rooms; nothing here computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resx.bench import measuring
from resx.bench.load.load_plan import LoadPlan
from resx.cli.views.demo_summary import ServedSummary, Summary
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Published, Repository
from resx.serving.client.address import PROTOCOLS
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import serve_detached, stop

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

    from resx.card.card import Card
    from resx.card.kinds import Precision
    from resx.data.dataset import DataSet
    from resx.export.reference import Exportable

CONCURRENCY = 8
_ACTS = 7
"""Load, train, two exports, start the server, measure two models."""
MAX_BATCH = 16


def walk(
    folder: Path, *, epochs: int, duration_s: float, seed: int, step: Callable[[str], None], note: Callable[[str], None]
) -> Summary:
    """Go through the whole line in `folder`; the server that it starts is stopped whatever happens."""
    act = functools.partial(_numbered, step)
    act(1)("load PyTorch and the digits")
    from resx.data.digits import digits
    from resx.export.sources.source import load_source

    data = digits()
    _train(folder / "runs/digits", data, epochs=epochs, seed=seed, step=act(2), note=note)
    source = load_source(str(folder / "runs/digits"), weights="none", seed=seed)
    expected = source.logits(data.held_out.images[np.arange(len(data.held_out))])
    repository = Repository(folder / "model_repository")
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    exported = [
        _export(source, repository, precision, seed=seed, step=act(number))
        for number, precision in enumerate(precisions, start=3)
    ]

    act(5)("start Triton, load both models and run their self-tests")
    state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    try:
        served = tuple(
            _use(state, card, version, data, expected, duration_s=duration_s, seed=seed, step=act(number))
            for number, (card, version) in enumerate(exported, start=6)
        )
        with TritonClient(state.address("grpc")) as client:
            triton = client.server_version()
    finally:
        step("stop Triton")
        stop(repository)
    fold = next(parity for parity in exported[0][0].steps if parity.step == "fold")
    return Summary(
        accuracy=float((expected.argmax(1) == data.held_out.targets).mean()),
        num_images=len(data.held_out),
        fold_max_abs=fold.max_abs,
        scale=fold.scale,
        triton=triton,
        concurrency=CONCURRENCY,
        served=served,
    )


def _numbered(step: Callable[[str], None], number: int) -> Callable[[str], None]:
    """Return what announces the steps of one act, which says which one it is."""
    return lambda text: step(f"[{number}/{_ACTS}] {text}")


def _train(
    folder: Path, data: DataSet, *, epochs: int, seed: int, step: Callable[[str], None], note: Callable[[str], None]
) -> nn.Module:
    from resx.training.config import TrainingConfig
    from resx.training.loop import TrainingRun, train
    from resx.zoo.catalog import variant

    spec = variant("resnet20").spec.with_changes(
        classes=len(data.labels), survival=0.5, labels=data.labels, image=data.image
    )
    step(f"train resnet20 with stochastic depth, {epochs} epochs")
    return train(
        TrainingRun(
            spec=spec, data=data, config=TrainingConfig(data=data.name, epochs=epochs, seed=seed), folder=folder
        ),
        on_epoch=lambda entry: note(
            f"    epoch {entry['epoch']}/{epochs}  loss {entry['loss']:.3f}  accuracy {entry['accuracy']:.2%}"
        ),
    )


def _export(
    source: Exportable, repository: Repository, precision: Precision, *, seed: int, step: Callable[[str], None]
) -> tuple[Card, Published]:
    from resx.export.options import ExportOptions

    return export_into(
        repository,
        source,
        ExportOptions(precision=precision, max_batch_size=MAX_BATCH, seed=seed),
        ServingOptions(),
        name=f"digits_{precision}",
        command="resx demo",
        on_step=lambda text: step(f"{precision}: {text}"),
    )


def _use(
    state: ServerState,
    card: Card,
    version: Published,
    data: DataSet,
    expected: npt.NDArray[np.float32],
    *,
    duration_s: float,
    seed: int,
    step: Callable[[str], None],
) -> ServedSummary:
    """Query every held-out digit over both protocols, and measure."""
    answers: dict[str, npt.NDArray[np.int64]] = {}
    for protocol in PROTOCOLS:
        step(f"{card.name}: query {len(data.held_out)} digits over {protocol}")
        with TritonClient(state.address(protocol)) as client:
            interface = client.interface(card.name)
            parts = [
                client.infer(card.name, interface, data.held_out.images[start : start + MAX_BATCH]).logits.argmax(1)
                for start in range(0, len(data.held_out), MAX_BATCH)
            ]
        answers[protocol] = np.concatenate(parts)
    step(f"{card.name}: measure at concurrency {CONCURRENCY}")
    plan = LoadPlan(concurrency=CONCURRENCY, duration_s=duration_s, warmup_s=1.0, seed=seed)
    measured = measuring.run(state.address("grpc"), card.name, [plan]).measurements[0]
    return ServedSummary(
        name=card.name,
        size_kb=(version.folder / "model.onnx").stat().st_size / 1e3,
        fp16_share=card.fp16_share,
        max_abs=next(parity.max_abs for parity in card.steps if parity.step == "onnx"),
        same={protocol: int((answer == expected.argmax(1)).sum()) for protocol, answer in answers.items()},
        accuracy=float((answers["grpc"] == data.held_out.targets).mean()),
        measured=measured,
    )
