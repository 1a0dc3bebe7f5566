"""What the requests of a load contain, and which answers are right.

Where the version's card is at hand, requests are its canary's images, whose answers the card records: every answer
of the load can then be checked against what the exported file gave. Images of the user's own are checked against
the version's file, run here. Otherwise noise is sent and answers are not checked, and the result says so. An image
endpoint is sent image files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resx.bench.load.image_files import file_tensors, sample_photographs
from resx.bench.load.inputs import as_sent, random_input
from resx.bench.load.wire import SharedInput, Target
from resx.card import canary_rows
from resx.card import card as cards
from resx.card.card import Card
from resx.errors import MissingCapability, ResxError, UsageError
from resx.files.listing import list_images
from resx.repository.image_endpoint import IMAGE
from resx.repository.interface import Interface
from resx.serving.client.client import TritonClient

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
    has_rows: bool = True
    """Whether tensors have an axis of rows; an image endpoint takes a file, and other models a tensor of their own."""

    @property
    def num_rows(self) -> int:
        """Images in a request."""
        return len(self.tensors[0]) if self.has_rows else 1


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


def first_request(target: Target) -> npt.NDArray[Any]:
    """Return the tensor of one small request, to see that the model answers.

    Raises:
        UsageError: the request would not fit into memory, or a file cannot be read.
    """
    return unchecked_payloads(
        target, target.interface.max_batch_size if target.interface.fixed_batch else 1, 0, 1
    ).tensors[0]


def unchecked_payloads(target: Target, batch_size: int, seed: int, num_payloads: int = NUM_PAYLOADS) -> Payloads:
    """Return what is sent where nobody knows the answers: photographs, the user's own inputs, or seeded noise."""
    interface, reference = target.interface, "answers not checked: no card found"
    if target.owner is not None:
        return replace(image_files(target, None, None), reference=reference)
    if target.rows is not None:
        tensors = _batches(target.rows[: _MOST_FILES * batch_size], interface, batch_size)
        contents = f"{min(len(target.rows), _MOST_FILES * batch_size):,} inputs of --data"
    else:
        seeds = range(seed * NUM_PAYLOADS, seed * NUM_PAYLOADS + num_payloads)
        tensors = tuple(request_images(interface, batch_size, one) for one in seeds)
        contents = f"noise (seed {seed})"
    return Payloads(tensors=tensors, contents=contents, reference=reference, has_rows=bool(interface.max_batch_size))


def with_answers(payloads: Payloads, version_folder: Path | None) -> Payloads:
    """Return the same requests with the answers of the version's own file, run here; None leaves them unchecked."""
    return replace(payloads, **_answers(version_folder, payloads.tensors))


def request_images(interface: Interface, batch_size: int, seed: int) -> npt.NDArray[Any]:
    """Return one request's input [N, ...]: seeded noise in the model's input type.

    Raises:
        UsageError: an axis of the input is open, or it would not fit into memory.
    """
    return random_input(interface, interface.request_shape(batch_size), seed)


def canaries(card: Card, batch_size: int) -> Payloads:
    """Return the card's own request in batches, with the logits that it records."""
    images = canary_rows.canary_input(card.signature, card.canary.num_images)
    logits = np.asarray(card.canary.logits, np.float64)
    starts = range(len(images)) if card.signature.batch is None else (0,)
    rows = [(np.arange(batch_size) + start) % len(images) for start in starts]
    return Payloads(
        tensors=tuple(np.ascontiguousarray(images[row]) for row in rows),
        contents="the card's canary, noise",
        expected=tuple(logits[row] for row in rows),
        reference="the card's recorded logits",
        tolerance=card.canary.tolerance,
    )


def pictures(folder: Path, interface: Interface, batch_size: int, version_folder: Path | None) -> Payloads:
    """Return the image files of a folder, prepared as `resx query` does, with the answers of the version's own file.

    Raises:
        UsageError: there are none, one cannot be read, or the model takes no images.
    """
    from resx.serving.client.image_queries import load_images, model_input

    paths, contents = _list_images(folder)
    tensors = _batches(model_input(load_images(paths), interface, paths), interface, batch_size)
    return with_answers(Payloads(tensors=tensors, contents=contents), version_folder)


def image_files(target: Target, folder: Path | None, version_folder: Path | None) -> Payloads:
    """Return the files of a folder, or two photographs, as an image endpoint takes them: one a request.

    The answers are those of the file of the model behind it to the pixels that `resx query` would send.

    Raises:
        UsageError: there are none, or one cannot be read.
    """
    from resx.serving.client.image_queries import load_images, model_input

    assert target.owner is not None
    paths, contents = _list_images(folder) if folder else (sample_photographs(), "scikit-learn's two photographs")
    sent = Payloads(tensors=file_tensors(paths), contents=f"{contents}, as files", has_rows=False)
    if target.model != target.owner.model + IMAGE:
        return replace(sent, reference="answers unchecked: they are pixels")
    pixels = model_input(load_images(paths), target.owner.interface, paths) if version_folder else np.zeros(0)
    return replace(sent, **_answers(version_folder, tuple(pixels[place : place + 1] for place in range(len(pixels)))))


def _list_images(folder: Path) -> tuple[Sequence[Path], str]:
    """Return the image files of a folder, and what they are in words."""
    if not folder.is_dir():
        raise UsageError(f"--data {folder}: no such folder; give one of JPEG, PNG or WebP files, or a .npy file")
    listed = list_images(folder)
    paths, skipped = listed.paths[:_MOST_FILES], f"; skipped {listed.skipped}" if listed.skipped else ""
    if not paths:
        raise UsageError(f"--data {folder}: no images in it{skipped}; give a folder of JPEG, PNG or WebP files")
    more = f"the first {len(paths)} of {len(listed.paths):,}" if len(paths) < len(listed.paths) else f"{len(paths)}"
    return paths, f"{more} images of {folder}{skipped}"


def _batches(rows: npt.NDArray[Any], interface: Interface, batch_size: int) -> tuple[npt.NDArray[Any], ...]:
    """Return rows in batches, each once or more; a model without a batch axis takes one at a time."""
    num_payloads = max(NUM_PAYLOADS, -(-len(rows) // batch_size))
    places = [(np.arange(batch_size) + number * batch_size) % len(rows) for number in range(num_payloads)]
    return tuple(as_sent(rows[place] if interface.max_batch_size else rows[place[0]], interface) for place in places)


def _answers(version_folder: Path | None, tensors: Sequence[npt.NDArray[Any]]) -> dict[str, Any]:
    """Return the fields of Payloads that say what is right: what a version's file gives, run here."""
    card = None if version_folder is None else cards.read_card(version_folder)
    if card is None or version_folder is None:
        return {"reference": "answers not checked: no card found"}
    try:
        from resx.runtimes.model_file import open_model

        model = open_model(version_folder / card.model_file, card)
        expected = tuple(np.asarray(model(tensor), np.float64) for tensor in tensors)
    except (MissingCapability, ImportError) as error:
        return {"reference": f"answers unchecked: the version's file cannot be run here ({error})"}
    return {"expected": expected, "reference": "the version's file, run here", "tolerance": card.canary.tolerance}


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
                f"--shared-memory: {error}; a resx server needs its control key, Triton 26.04 or later "
                "--allow-client-shm=true, and both must be on one machine (a container: in the host's IPC namespace)"
            ) from error
        try:
            yield places
        finally:
            with contextlib.suppress(ResxError):
                client.unregister_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)
