"""`resx verify`: repeat a version's checks from its files, or compare two files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.completion import complete_model
from resx.cli.options.aliases import Alias
from resx.cli.options.connection import ProtocolName, ServerAccess
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath, Version
from resx.cli.options.seed import Seed
from resx.cli.options.source import AllowCode
from resx.cli.options.validation import finite
from resx.cli.output import Output
from resx.cli.views.verification import comparison_as_json, show_comparison, show_verification, verification_as_json
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.serving.deployment.verification import LabelledData

_files_option = partial(typer.Option, rich_help_panel="Two files")

Rtol: TypeAlias = Annotated[
    float,
    _files_option(callback=finite, metavar="X", help="Largest difference that passes, relative to the output's scale."),
]
MaxBatch: TypeAlias = Annotated[
    int, _files_option("--max-batch", min=1, metavar="N", help="The largest batch, beside 1 and 2.")
]
Bisect: TypeAlias = Annotated[bool, _files_option("--bisect", metavar="", help="Name the first tensor that differs.")]
ByPosition: TypeAlias = Annotated[
    bool, _files_option("--by-position", metavar="", help="Match inputs and outputs by position, not by name.")
]
VerifyData: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="Measure accuracy on digits, mnist5k, cifar10:DIR, cifar100:DIR or folder:DIR. "
        "Default: a run's held-out data.",
    ),
]
NumImages: TypeAlias = Annotated[
    int, typer.Option(min=1, metavar="N", help="At most N images of --data, spread evenly over its held-out part.")
]
ServedAt: TypeAlias = Annotated[
    str,
    typer.Option(metavar="URL", help="Also compare this server's answers with the file's."),
    Alias(name="--served"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonOptions:
    """How two files are compared."""

    rtol: Rtol = 1e-4
    max_batch: MaxBatch = 8
    bisect: Bisect = False
    by_position: ByPosition = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyOptions:
    """What accuracy is measured on; an empty name: what the version names itself."""

    data: VerifyData = ""
    images: NumImages = 512

    def labelled(self) -> LabelledData:
        """Return the data by name."""
        from resx.serving.deployment.verification import LabelledData

        return LabelledData(name=self.data, num_images=self.images)


def verify(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="NAME|A.onnx", help="A model of the repository, or a file.", autocompletion=complete_model
        ),
    ],
    accuracy: AccuracyOptions,
    comparison: ComparisonOptions,
    other: Annotated[Path | None, typer.Argument(metavar="[B.onnx]", help="The file to compare it with.")] = None,
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    version: Version = 0,
    url: ServedAt = "",
    protocol: ProtocolName = "",
    *,
    printing: TableOptions,
    seed: Seed = 0,
    allow_code: AllowCode = None,
    limits: ImageLimits,
) -> None:
    """Re-verify a published version against its source, or compare two ONNX files.

    Example: resx verify densenet169 --url 127.0.0.1:8001
    """
    from resx.card.card import read_card
    from resx.repository.versions import Repository
    from resx.zoo.catalog import names_onnx_file

    limits.apply()
    out = printing.open()
    if other is not None or names_onnx_file(subject):
        if other is None:
            raise UsageError(f"{subject}: give a second .onnx file to compare it with, or a model's name")
        if not comparison.rtol > 0:
            raise UsageError(f"rtol={comparison.rtol}: give a bound above 0")
        _compare(out, (Path(subject), other), comparison, accuracy, seed=seed)
        return
    folder = Repository(repository).version_folder(subject, version or None)
    address = ServerAccess(protocol=protocol).address(url, repository) if url else None
    with out.steps() as step:
        from resx.serving.deployment.verification import verify_version

        found = verify_version(folder, address, accuracy.labelled(), allowed_code=allow_code or [], on_step=step)
    card = read_card(folder)
    verdict = found.verdict(f"{subject} version {folder.name}")
    out.result(
        verification_as_json(subject, int(folder.name), card, found),
        lambda console: show_verification(console, f"{subject} v{folder.name}", card, found),
        verdict,
    )
    if verdict is not None:
        raise verdict


def _compare(
    out: Output, files: tuple[Path, Path], how: ComparisonOptions, accuracy: AccuracyOptions, *, seed: int
) -> None:
    with out.steps() as step:
        step("run both files")
        from resx.export.checks.file_comparison import compare_files, first_divergence
        from resx.export.checks.file_verdict import accuracies_of, difference_of

        found = compare_files(
            *files, rtol=how.rtol, max_batch_size=how.max_batch, seed=seed, by_position=how.by_position
        )
        accuracies = None
        if accuracy.data:
            step(f"measure accuracy on {accuracy.data}")
            accuracies = accuracies_of(files, accuracy.data, num_images=accuracy.images, max_batch=how.max_batch)
        divergence = None
        if how.bisect and not found.passed:
            step("compare every tensor")
            divergence = first_divergence(*files, rtol=how.rtol, seed=seed)
    verdict = difference_of(found, accuracies, files, how.rtol)
    out.result(
        comparison_as_json(found, accuracies, divergence),
        lambda console: show_comparison(console, found, accuracies, divergence),
        verdict,
    )
    if verdict is not None:
        raise verdict
