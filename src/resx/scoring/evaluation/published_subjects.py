"""What is evaluated as it is served: a published version in this process, or a model on a running Triton."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import numpy as np

from resx.repository.versions import Repository
from resx.scoring.evaluation.subject import Kind, Subject, require_classes
from resx.scoring.in_process import Sessions, find_model, require_runtime
from resx.scoring.rows import Compute, Model, answer_rows
from resx.scoring.through_server import Connections, find_served
from resx.serving.client.address import Address
from resx.serving.client.image_queries import model_input, preparation_for

_MOST_IN_A_BATCH = 64
"""Where a model takes more: larger batches are hardly faster, and take memory."""


def open_version(repository: Repository, name: str, version: int | None) -> Subject:
    """Return a version's file in the runtime and under the options that the server runs it with.

    Raises:
        UsageError: there is no such version, or it is no classifier of RGB images.
        MissingCapability: it is an engine, or its runtime is not installed.
    """
    file = find_model(repository, name, version)
    require_runtime(file, "cpu")
    compute = Sessions(file.path, file.model, file.config, instances=file.instances, device="cpu")
    title = f"{name} version {file.model.version}"
    return _of_model(file.model, compute, title=title, kind="version", in_flight=file.instances)


@contextlib.contextmanager
def open_served(address: Address, name: str, version: int | None, *, in_flight: int, retries: int) -> Iterator[Subject]:
    """Give a version that a server has loaded.

    Raises:
        UsageError: it is not loaded, or is no classifier of RGB images.
        MissingCapability: no server answers.
    """
    model = find_served(address, name, version, in_flight=in_flight, retries=retries).model
    with Connections(address, model, retries=retries) as compute:
        title = f"{name} version {model.version} at {address}"
        yield _of_model(model, compute, title=title, kind="served", in_flight=in_flight)


def _of_model(model: Model, compute: Compute, *, title: str, kind: Kind, in_flight: int) -> Subject:
    interface = model.interface
    how = preparation_for(interface)
    require_classes(title, interface.num_classes)
    return Subject(
        title=title,
        kind=kind,
        labels=model.labels if any(model.labels) else (),
        num_outputs=interface.num_classes,
        edge=how.height if how.height == how.width == how.resize else None,
        row_bytes=3 * how.height * how.width * np.dtype(how.kind).itemsize,
        batch_size=model.batch_size if interface.fixed_batch else min(model.batch_size, _MOST_IN_A_BATCH),
        in_flight=in_flight,
        has_random_weights=interface.has_random_weights,
        prepare=lambda image, name: model_input([image], interface, [name]),
        answer=partial(answer_rows, model=model, compute=compute),
        output_kind=lambda _values: model.output_kind,
    )
