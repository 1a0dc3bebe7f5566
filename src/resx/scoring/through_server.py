"""A model that a running Triton serves: prepared here, computed there, one version from the first row to the last."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from resx.errors import ServerBusy, ServerError
from resx.machine import usable_cores
from resx.repository.interface import Interface
from resx.scoring.parts import Parts
from resx.scoring.rows import Model
from resx.scoring.run import OnRows, Scored, cut_into_parts, report_rows, stretches
from resx.scoring.sources.source import ImageSource
from resx.scoring.stream import score_rows, workers_for
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.client.image_queries import preparation_for
from resx.serving.client.server_errors import NotLoaded
from resx.serving.client.transport import FIRST_WAIT_S, LONGEST_WAIT_S

_BUSY_S = 60.0
"""How long a batch is offered to a server whose queue is full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThroughServer:
    """A loaded version, asked by a few threads at once."""

    address: Address
    model: Model
    in_flight: int
    """Batches at the server at the same time."""
    retries: int
    """Of a batch whose connection was lost, as `TritonClient` takes them."""

    def scored_parts(self, source: ImageSource, parts: Parts, numbers: list[int], on_rows: OnRows) -> Scored:
        """Give the parts in their order."""
        workers = workers_for(source, in_flight=self.in_flight, cores=usable_cores())
        with Connections(self.address, self.model, retries=self.retries) as compute:
            for first, last in stretches(numbers):
                stretch = source.part(parts.bounds(first)[0], parts.bounds(last)[1])
                tables = score_rows(stretch, self.model, compute, parts.manifest.top, workers)
                yield from cut_into_parts(report_rows(tables, on_rows), parts, range(first, last + 1))


class Connections:
    """A client for each thread that asks: tritonclient's may not be shared."""

    def __init__(self, address: Address, model: Model, *, retries: int) -> None:
        self._address, self._model, self._retries = address, model, retries
        self._mine = threading.local()
        self._opened: list[TritonClient] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._opened:
            client.close()

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the answer [N, classes] to a batch; while the server's queue is full it is offered again.

        Raises:
            ServerBusy: the queue stayed full for a minute.
            ResxError: the server is away, or fails.
        """
        model, deadline, wait_s = self._model, time.monotonic() + _BUSY_S, FIRST_WAIT_S
        while True:
            try:
                answer = self._client().infer(model.name, model.interface, x, model.version)
                return answer.logits.astype(np.float32, copy=False)
            except ServerBusy:
                if time.monotonic() + wait_s > deadline:
                    raise
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            except NotLoaded as error:  # it was when the run began: what went away is no mistake in what was asked
                raise ServerError(str(error)) from error

    def _client(self) -> TritonClient:
        if not hasattr(self._mine, "client"):
            self._mine.client = TritonClient(self._address, retries=self._retries)
            self._opened.append(self._mine.client)
        client: TritonClient = self._mine.client
        return client


def find_served(address: Address, name: str, version: int | None, *, in_flight: int, retries: int) -> ThroughServer:
    """Return a version that is loaded; None takes the one that answers now, and keeps to it.

    Raises:
        UsageError: it is not loaded, or takes no images.
        MissingCapability: no server answers.
    """
    with TritonClient(address) as client:
        interface = client.interface(name, version)
        kind = preparation_for(interface).kind  # refuses what takes no images
        num_rows = interface.max_batch_size if interface.fixed_batch else 1
        pixels = np.zeros(interface.request_shape(num_rows), kind)
        pinned = client.infer(name, interface, pixels, version).version
        named = {guess.index: guess.label for guess in client.classify(name, interface, pixels, pinned)[0]}
    labels = tuple(named.get(index, "") for index in range(interface.num_classes))
    model = Model(name=name, version=pinned, sha256=_sha256_of(interface, labels), interface=interface, labels=labels)
    return ThroughServer(address=address, model=model, in_flight=in_flight, retries=retries)


def _sha256_of(interface: Interface, labels: tuple[str, ...]) -> str:
    """Return a hash of what rows depend on and a server tells; its batches and addresses may change on the way."""
    told_by_server = [
        interface.input_name,
        interface.input_type,
        interface.input_dims,
        interface.output_name,
        interface.num_classes,
        sorted(interface.parameters.items()),
        labels,
    ]
    return hashlib.sha256(json.dumps(told_by_server).encode()).hexdigest()
