"""Verification: does a version, or a second file, compute what it should?"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resx.api.places import address_at, repository_at
from resx.errors import UsageError
from resx.repository.versions import DEFAULT, Repository

if TYPE_CHECKING:
    from resx.card.parity_result import Parity
    from resx.export.checks.file_comparison import Comparison, OutputDifference
    from resx.serving.deployment.verification import Check


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A version that passed every check, or two files that agree."""

    name: str
    """The model, or the second file."""
    version: int | None
    """None for two files."""
    checks: tuple[Check, ...]
    """Of a version; one that was skipped says why."""
    parity: Parity | None
    """The version's file against its source, measured now; None where the source could not be loaded."""
    outputs: tuple[OutputDifference, ...]
    """Of two files: how far each output is from the first file's."""


def verify(
    subject: str | Path,
    other: str | Path | None = None,
    *,
    repository: Repository | Path | str = DEFAULT,
    version: int | None = None,
    url: str = "",
    data: str = "",
    images: int = 512,
    rtol: float = 1e-4,
    max_batch: int = 8,
    by_position: bool = False,
    allow_code: Collection[str] = (),
    seed: int = 0,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Verified:
    """Re-verify a published version, or compare two .onnx files, as `resx verify` does.

    Args:
        subject: a model of the repository, or the first file.
        other: the second file.
        repository: the model repository.
        version: None: the newest.
        url: of a server whose answers are compared with the file's, too.
        data: measure accuracy on it. Default: a run's own held-out images.
        images: at most so many of `data`.
        rtol: of two files: the largest difference that passes, relative to the output's scale.
        max_batch: of two files: the largest batch, beside 1 and 2.
        by_position: of two files: match inputs and outputs by position, not by name.
        allow_code: modules that the version's card may name a function of.
        seed: of noise.
        on_step: called with the name of each step when it begins.

    Raises:
        ParityError: a check failed, or the files differ; the message names which.
        UsageError: there is no such version or file, or its source is code that is not allowed.
        MissingCapability: no server answers.
    """
    from resx.zoo.catalog import names_onnx_file

    if other is not None:
        return _verify_files((Path(subject), Path(other)), rtol, max_batch, data, images, seed, by_position, on_step)
    if names_onnx_file(str(subject)):
        raise UsageError(f"{subject}: give a second .onnx file to compare it with, or a model's name")
    from resx.serving.deployment.verification import LabelledData, verify_version

    published = repository_at(repository)
    folder = published.version_folder(str(subject), version)
    address = address_at(url, published) if url else None
    found = verify_version(
        folder, address, LabelledData(name=data, num_images=images), allowed_code=allow_code, on_step=on_step
    )
    if error := found.verdict(f"{subject} version {folder.name}"):
        raise error
    return Verified(name=str(subject), version=int(folder.name), checks=found.checks, parity=found.again, outputs=())


def _verify_files(
    files: tuple[Path, Path],
    rtol: float,
    max_batch: int,
    data: str,
    num_images: int,
    seed: int,
    by_position: bool,
    on_step: Callable[[str], None],
) -> Verified:
    from resx.export.checks.file_comparison import compare_files
    from resx.export.checks.file_verdict import accuracies_of, difference_of

    if not rtol > 0:
        raise UsageError(f"rtol={rtol}: give a bound above 0")
    on_step("run both files")
    found: Comparison = compare_files(*files, rtol=rtol, max_batch_size=max_batch, seed=seed, by_position=by_position)
    accuracies = accuracies_of(files, data, num_images=num_images, max_batch=max_batch) if data else None
    if error := difference_of(found, accuracies, files, rtol):
        raise error
    return Verified(name=str(files[1]), version=None, checks=(), parity=None, outputs=found.outputs)
