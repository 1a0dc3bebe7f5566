"""`resx verify`: repeat a version's checks from its files, or compare two files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options.shared import (
    AllowCode,
    Json,
    MaxFileMib,
    MaxMegapixels,
    ProtocolName,
    Quiet,
    RepositoryPath,
    Seed,
    finite,
)
from resx.cli.output import Output, table
from resx.cli.views.version_card import accelerated
from resx.errors import ParityError, UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from rich.console import Console

    from resx.card.card import Card
    from resx.card.parity_result import Parity
    from resx.export.checks.accuracy import Accuracies
    from resx.export.checks.file_comparison import Comparison, Divergence
    from resx.serving.deployment.verification import Verification


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("verify")(verify)


def verify(
    subject: Annotated[str, typer.Argument(metavar="NAME|A.onnx", help="A model of the repository, or a file.")],
    other: Annotated[Path | None, typer.Argument(metavar="[B.onnx]", help="The file to compare it with.")] = None,
    version: Annotated[int, typer.Option(min=0, help="0: the newest.")] = 0,
    served: Annotated[str, typer.Option(metavar="URL", help="Compare this server's answers with the file's too.")] = "",
    protocol: ProtocolName = "",
    data: Annotated[
        str,
        typer.Option(
            metavar="SET",
            help="Measure accuracy on digits, cifar10:DIR, cifar100:DIR or folder:DIR. Default: a run's held-out data.",
        ),
    ] = "",
    images: Annotated[int, typer.Option(min=1, help="Of --data, at most; spread evenly over its held-out part.")] = 512,
    rtol: Annotated[
        float, typer.Option(callback=finite, help="Files: largest difference that passes, over the output's scale.")
    ] = 1e-4,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Files: the largest batch, beside 1 and 2.")] = 8,
    bisect: Annotated[bool, typer.Option("--bisect", help="Files: name the first tensor that differs.")] = False,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Files: match inputs and outputs by order, not by name.")
    ] = False,
    allow_code: AllowCode = None,
    repository: RepositoryPath = Path("model_repository"),
    seed: Seed = 0,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that a published version still is, and computes, what its card says; or compare two ONNX files.

    Example: resx verify densenet169 --served 127.0.0.1:8001
    """
    from resx.zoo.catalog import names_onnx_file

    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    out = Output(as_json=json, quiet=quiet)
    if other is not None or names_onnx_file(subject):
        if other is None:
            raise UsageError(f"{subject}: give a second .onnx file to compare it with, or a model's name")
        if not rtol > 0:
            raise UsageError(f"rtol={rtol}: give a bound above 0")
        files = (Path(subject), other)
        _compare(
            out,
            files,
            rtol=rtol,
            max_batch=max_batch,
            bisect=bisect,
            seed=seed,
            data=data,
            num_images=images,
            by_position=by_position,
        )
    else:
        _version(
            out,
            subject,
            version or None,
            repository,
            served=served,
            protocol=protocol,
            data=data,
            num_images=images,
            allowed_code=allow_code or [],
        )


def _compare(
    out: Output,
    files: tuple[Path, Path],
    *,
    rtol: float,
    max_batch: int,
    bisect: bool,
    seed: int,
    data: str,
    num_images: int,
    by_position: bool,
) -> None:
    with out.steps() as step:
        step("run both files")
        from resx.export.checks.file_comparison import compare_files, first_divergence

        found = compare_files(*files, rtol=rtol, max_batch_size=max_batch, seed=seed, by_position=by_position)
        accuracies = None
        if data:
            step(f"measure accuracy on {data}")
            accuracies = _of_files(files, data, num_images=num_images, max_batch=max_batch)
        divergence = None
        if bisect and not found.passed:
            step("compare every tensor")
            divergence = first_divergence(*files, rtol=rtol, seed=seed)
    payload: dict[str, Any] = {
        "passed": found.passed and (accuracies is None or accuracies.passed),
        "outputs": [_finite(one.model_dump(mode="json")) for one in found.outputs],
        "batch_sizes": list(found.batch_sizes),
        "num_noise": found.num_noise,
        "num_photographs": found.num_photographs,
        "accuracy": _accuracy(accuracies),
    }
    if divergence:
        payload["first_divergence"] = _finite(
            {
                "tensor": divergence.tensor,
                "operator": divergence.operator,
                "relative": divergence.relative,
            }
        )
    out.result(payload, lambda console: _show_files(console, found, accuracies, divergence))
    if not found.passed:
        worst = max(found.outputs, key=lambda one: one.smallest_rtol)
        raise ParityError(
            f"{files[1]}: {worst.output} differs from {files[0]}'s by {worst.smallest_rtol:.3g} of its scale, allowed "
            f"{rtol:g}; {_remedy(worst.smallest_rtol)}; --bisect names the first tensor that differs"
        )
    if accuracies is not None and not accuracies.passed:
        raise ParityError(f"{files[1]}: accuracy falls by {accuracies.drop:.1%}: {accuracies.text}; allowed is a point")


def _of_files(files: tuple[Path, Path], data: str, *, num_images: int, max_batch: int) -> Accuracies:
    import functools

    from resx.export.checks.accuracy import Accuracies, load_labelled
    from resx.export.checks.file_comparison import right_by_files

    load = functools.cache(
        lambda image_size, num_classes: load_labelled(
            data, image_size=image_size, num_classes=num_classes, num_images=num_images
        )
    )
    used = []

    def labelled(image_size: int, num_classes: int) -> Any:
        used.append(load(image_size, num_classes))
        return used[-1]

    first, second = right_by_files(files, labelled, max_batch_size=max_batch)
    return Accuracies(images=used[0].origin, right={"first": first, "second": second})


def _show_files(
    console: Console, found: Comparison, accuracies: Accuracies | None, divergence: Divergence | None
) -> None:
    rows = [
        [
            one.output,
            str(one.num_rows),
            f"{one.scale:.3g}",
            f"{one.max_abs:.2e}",
            f"{one.mean_abs:.2e}",
            f"{one.p99_abs:.2e}",
            f"{one.cosine:.6f}",
            f"{one.top1_agreement:.1%}",
            f"--rtol {one.smallest_rtol:.2e}",
            "passed" if one.passed else "failed",
        ]
        for one in found.outputs
    ]
    columns = ["output", "rows", "scale", "max", "mean", "p99", "cosine", "top-1", "would pass with", "verdict"]
    console.print(table("", columns, rows))
    sizes = ", ".join(map(str, found.batch_sizes))
    console.print(f"{found.num_noise} inputs of noise, {found.num_photographs} photographs, batches of {sizes}")
    if accuracies:
        console.print(f"accuracy: {accuracies.text}", markup=False, soft_wrap=True)
    if divergence:
        console.print(
            f"first difference: {divergence.tensor} ({divergence.operator}), {divergence.relative:.2e} of its scale; "
            f"{divergence.num_compared} tensors compared",
            markup=False,
            soft_wrap=True,
        )


def _version(
    out: Output,
    name: str,
    version: int | None,
    repository: Path,
    *,
    served: str,
    protocol: str,
    data: str,
    num_images: int,
    allowed_code: list[str],
) -> None:
    from resx.card.card import read_card
    from resx.cli.options.connection import address_of
    from resx.repository.versions import Repository

    published = Repository(repository)
    folder = published.version_folder(name, version)
    address = address_of(served, protocol, published) if served else None
    with out.steps() as step:
        from resx.serving.deployment.verification import LabelledData, verify_version

        labelled = LabelledData(name=data, num_images=num_images)
        found = verify_version(folder, address, labelled, allowed_code=allowed_code, on_step=step)
    card = read_card(folder)
    payload = {
        "name": name,
        "version": int(folder.name),
        "accelerator": card.accelerator,
        "passed": all(check.passed for check in found.checks),
        "checks": [
            {"what": c.what, "passed": c.passed, "skipped": c.skipped, "detail": c.detail} for c in found.checks
        ],
        "steps": [
            _finite({"when": when} | step.model_dump(mode="json") | {"smallest_rtol": _smallest(step)})
            for when, step in _steps(card, found)
        ],
        "accuracy": _accuracy(found.accuracies),
    }
    out.result(payload, lambda console: _show_version(console, card, found))
    for check in found.checks:
        if not check.passed:
            raise ParityError(f"{name} version {folder.name}: {check.what}: {check.detail}; export the model again")


def _steps(card: Card, found: Verification) -> list[tuple[str, Parity]]:
    """Return every measured step: those of the export, from the card, and the one that was repeated."""
    return [*(("export", step) for step in card.steps), *([("now", found.again)] if found.again else [])]


def _show_version(console: Console, card: Card, found: Verification) -> None:
    rows = [[c.what, "skipped" if c.skipped else "passed" if c.passed else "failed", c.detail] for c in found.checks]
    console.print(table("", ["check", "verdict", "detail"], rows, left=3))
    measured = [
        [
            when,
            step.step,
            str(step.num_images),
            f"{step.scale:.3g}",
            f"{step.max_abs:.2e}",
            f"{step.mean_abs:.2e}",
            "-" if step.p99_abs is None else f"{step.p99_abs:.2e}",
            "-" if step.cosine is None else f"{step.cosine:.6f}",
            f"{step.top1_agreement:.1%}",
            f"--rtol {_smallest(step):.2e}",
            "passed" if step.passed else "failed",
        ]
        for when, step in _steps(card, found)
    ]
    columns = ["measured", "step", "images", "scale", "max", "mean", "p99", "cosine", "top-1", "would pass with"]
    if measured:
        console.print(table("", [*columns, "verdict"], measured, left=2))
    if text := accelerated(card):
        console.print(text, markup=False, soft_wrap=True)


def _smallest(step: Parity) -> float:
    from resx.export.checks.parity import passing_rtol

    return passing_rtol(step)


def _remedy(smallest: float) -> str:
    return (
        f"it would pass with --rtol {smallest:g}" if math.isfinite(smallest) else "no --rtol passes what is no number"
    )


def _accuracy(found: Accuracies | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"num_images": found.num_images, "images": found.images, **found.shares, "passed": found.passed}


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that JSON cannot hold by None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in fields.items()
    }
