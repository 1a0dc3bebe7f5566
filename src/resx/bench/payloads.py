"""What the requests of a load contain, and which answers are right.

Where the version's card is at hand, requests are its canary's images, whose answers the card records: every answer
of the load can then be checked against what the exported file gave. Images of the user's own are checked against
the version's file, run here. Otherwise noise is sent and answers are not checked, and the result says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.bench.wire import SharedInput
from resx.errors import MissingCapability, ResxError, UsageError
from resx.export import card as cards
from resx.export.card import Card
from resx.listing import list_images
from resx.serving.client import Interface, TritonClient

NUM_PAYLOADS = 8
_MOST_FILES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Payloads:
    """Inputs that are sent in turn."""

    tensors: tuple[npt.NDArray[Any], ...]
    """Each [N, ...]."""
    contents: str
    """What they show."""
    expected: tuple[npt.NDArray[np.float64], ...] = ()
    """The logits [N, classes] of each; empty where nobody knows."""
    reference: str = ""
    """Where those come from, or why there are none."""
    tolerance: float = 0.0
    """Largest accepted difference, times the logits' scale."""


def require_batch(model: str, interface: Interface, batch_size: int) -> None:
    """Raise UsageError unless the model takes that many images in a request."""
    if batch_size > max(1, interface.max_batch_size):
        raise UsageError(
            f"batch_size={batch_size}: {model} takes {max(1, interface.max_batch_size)} at most; "
            "`resx export --max-batch` sets that"
        )
    if interface.fixed_batch and batch_size != interface.max_batch_size:
        raise UsageError(
            f"batch_size={batch_size}: {model} takes exactly {interface.max_batch_size}; "
            f"give --batch-size {interface.max_batch_size}"
        )


def noise(interface: Interface, batch_size: int, seed: int) -> Payloads:
    """Return seeded noise in the model's input type, unchecked."""
    tensors = tuple(
        request_images(interface, batch_size, seed * NUM_PAYLOADS + number) for number in range(NUM_PAYLOADS)
    )
    return Payloads(tensors=tensors, contents=f"noise (seed {seed})", reference="answers unchecked: no card is at hand")


def request_images(interface: Interface, batch_size: int, seed: int) -> npt.NDArray[Any]:
    """Return one request's input [N, ...]: seeded noise in the model's input type.

    Raises:
        UsageError: an axis of the input is open, or it would not fit into memory.
    """
    shape = interface.request_shape(batch_size)
    random = np.random.default_rng(seed)
    if interface.input_type == "UINT8":
        return random.integers(0, 256, size=shape, dtype=np.uint8)
    return random.standard_normal(shape, dtype=np.float32)


def canaries(card: Card, batch_size: int) -> Payloads:
    """Return the card's own request in batches, with the logits that it records."""
    images = cards.canary_input(card.signature, card.canary.num_images)
    logits = np.asarray(card.canary.logits, np.float64)
    starts = range(len(images)) if card.signature.batch is None else (0,)
    rows = [(np.arange(batch_size) + start) % len(images) for start in starts]
    return Payloads(
        tensors=tuple(np.ascontiguousarray(images[row]) for row in rows), contents="the card's canary, noise",
        expected=tuple(logits[row] for row in rows), reference="the card's recorded logits",
        tolerance=card.canary.tolerance,
    )  # fmt: skip


def pictures(folder: Path, interface: Interface, batch_size: int, version_folder: Path | None) -> Payloads:
    """Return the image files of a folder, prepared as `resx query` does, with the answers of the version's own file.

    Raises:
        UsageError: there are none, one cannot be read, or the model takes no images.
    """
    from resx.serving.images import load_images, model_input

    if not folder.is_dir():
        raise UsageError(f"--data {folder}: no such folder; give one of JPEG, PNG or WebP files")
    listed = list_images(folder)
    paths, skipped = listed.paths[:_MOST_FILES], f"; skipped {listed.skipped}" if listed.skipped else ""
    if not paths:
        raise UsageError(f"--data {folder}: no images in it{skipped}; give a folder of JPEG, PNG or WebP files")
    images = model_input(load_images(paths), interface, paths)
    num_payloads = max(NUM_PAYLOADS, -(-len(images) // batch_size))
    rows = [(np.arange(batch_size) + number * batch_size) % len(images) for number in range(num_payloads)]
    tensors = tuple(np.ascontiguousarray(images[row]) for row in rows)
    more = f"the first {len(paths)} of {len(listed.paths):,}" if len(paths) < len(listed.paths) else f"{len(paths)}"
    contents = f"{more} images of {folder}{skipped}"
    card, reference = None, "answers unchecked: no card is at hand"
    if version_folder is not None:
        card = cards.read_card(version_folder)
    if card is not None and version_folder is not None:
        try:
            from resx.export.runtimes import open_model

            model = open_model(version_folder / card.model_file, card)
            expected = tuple(np.asarray(model(tensor), np.float64) for tensor in tensors)
        except (MissingCapability, ImportError) as error:
            reference = f"answers unchecked: the version's file cannot be run here ({error})"
        else:
            return Payloads(
                tensors=tensors, contents=contents, expected=expected, reference="the version's file, run here",
                tolerance=card.canary.tolerance,
            )  # fmt: skip
    return Payloads(tensors=tensors, contents=contents, reference=reference)


@contextlib.contextmanager
def in_shared_memory(client: TritonClient, payloads: Payloads) -> Iterator[Sequence[SharedInput]]:
    """Lay the tensors into a region of system shared memory that the server knows for as long as this lasts.

    Raises:
        ResxError: the server refuses; its reason and what would help.
    """
    import os

    from tritonclient.utils import shared_memory

    name = f"resx-bench-{os.getpid()}"
    sizes = [tensor.nbytes for tensor in payloads.tensors]
    region = shared_memory.create_shared_memory_region(name, f"/{name}", sum(sizes))
    try:
        offset, places = 0, []
        for tensor, size in zip(payloads.tensors, sizes, strict=True):
            shared_memory.set_shared_memory_region(region, [tensor], offset=offset)
            places.append(SharedInput(region=name, offset=offset, num_bytes=size))
            offset += size
        try:
            client.register_shared_memory(name, f"/{name}", sum(sizes))
        except ResxError as error:
            raise MissingCapability(
                f"--shared-memory: {error}; a server of resx wants its control key, Triton from 26.04 "
                "--allow-client-shm=true, and both the same machine (in a container, the host's IPC namespace)"
            ) from error
        try:
            yield places
        finally:
            with contextlib.suppress(ResxError):
                client.unregister_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)
