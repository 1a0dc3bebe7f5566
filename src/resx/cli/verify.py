"""`resx verify`: repeat a version's checks from its files, or compare two files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options import Json, ProtocolName, Quiet, RepositoryPath, Seed
from resx.cli.output import Output, table
from resx.errors import ParityError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.export.file_comparison import Divergence, OutputDifference
    from resx.serving.verification import Check


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("verify")(verify)


def verify(
    subject: Annotated[str, typer.Argument(metavar="NAME|A.onnx", help="A model of the repository, or a file.")],
    other: Annotated[Path | None, typer.Argument(metavar="[B.onnx]", help="The file to compare it with.")] = None,
    version: Annotated[int, typer.Option(min=0, help="0: the newest.")] = 0,
    served: Annotated[str, typer.Option(metavar="URL", help="Compare this server's answers with the file's too.")] = "",
    protocol: ProtocolName = "",
    rtol: Annotated[float, typer.Option(help="Files: largest difference that passes, over the output's scale.")] = 1e-3,
    bisect: Annotated[bool, typer.Option("--bisect", help="Files: name the first tensor that differs.")] = False,
    repository: RepositoryPath = Path("model_repository"),
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that a published version still is, and computes, what its card says; or compare two ONNX files.

    Example: resx verify densenet169 --served 127.0.0.1:8001
    """
    out = Output(as_json=json, quiet=quiet)
    if other is not None or subject.endswith(".onnx"):
        if other is None:
            raise UsageError(f"{subject}: give a second .onnx file to compare it with, or a model's name")
        if not rtol > 0:
            raise UsageError(f"rtol={rtol}: give a bound above 0")
        _compare(out, Path(subject), other, rtol=rtol, bisect=bisect, seed=seed)
    else:
        _version(out, subject, version or None, repository, served=served, protocol=protocol)


def _compare(out: Output, first: Path, second: Path, *, rtol: float, bisect: bool, seed: int) -> None:
    with out.steps() as step:
        step("run both files")
        from resx.export.file_comparison import compare_files, first_divergence

        found = compare_files(first, second, rtol=rtol, seed=seed)
        passed = all(difference.passed for difference in found)
        divergence = None
        if bisect and not passed:
            step("compare every tensor")
            divergence = first_divergence(first, second, rtol=rtol, seed=seed)
    payload: dict[str, Any] = {"passed": passed, "outputs": [one.model_dump(mode="json") for one in found]}
    if divergence:
        payload["first_divergence"] = {
            "tensor": divergence.tensor, "operator": divergence.operator, "relative": divergence.relative,
        }  # fmt: skip
    out.result(payload, lambda console: _show_files(console, found, divergence))
    if not passed:
        worst = max(found, key=lambda one: one.smallest_rtol)
        raise ParityError(
            f"{second}: {worst.output} differs from {first}'s by {worst.smallest_rtol:.3g} of its scale, allowed "
            f"{rtol:g}; --bisect names the first tensor that differs"
        )


def _show_files(console: Console, found: list[OutputDifference], divergence: Divergence | None) -> None:
    rows = [
        [one.output, str(one.num_rows), f"{one.scale:.3g}", f"{one.max_abs:.2e}", f"{one.mean_abs:.2e}",
         f"{one.p99_abs:.2e}", f"{one.cosine:.6f}", f"{one.top1_agreement:.1%}", f"{one.smallest_rtol:.1e}",
         "passed" if one.passed else "failed"]
        for one in found
    ]  # fmt: skip
    columns = ["output", "rows", "scale", "max", "mean", "p99", "cosine", "top-1", "smallest rtol", "verdict"]
    console.print(table("", columns, rows))
    if divergence:
        console.print(
            f"first difference: {divergence.tensor} ({divergence.operator}), {divergence.relative:.2e} of its scale; "
            f"{divergence.num_compared} tensors compared",
            markup=False, soft_wrap=True,
        )  # fmt: skip


def _version(out: Output, name: str, version: int | None, repository: Path, *, served: str, protocol: str) -> None:
    from resx.cli.connection import address_of
    from resx.serving.repository import Repository

    published = Repository(repository)
    folder = published.version_folder(name, version)
    address = address_of(served, protocol, published) if served else None
    with out.steps() as step:
        from resx.serving.verification import verify_version

        checks = verify_version(folder, address, on_step=step)
    payload = {
        "name": name, "version": int(folder.name), "passed": all(check.passed for check in checks),
        "checks": [{"what": c.what, "passed": c.passed, "skipped": c.skipped, "detail": c.detail} for c in checks],
    }  # fmt: skip
    out.result(payload, lambda console: _show_checks(console, checks))
    for check in checks:
        if not check.passed:
            raise ParityError(f"{name} version {folder.name}: {check.what}: {check.detail}; export the model again")


def _show_checks(console: Console, checks: list[Check]) -> None:
    rows = [[c.what, "skipped" if c.skipped else "passed" if c.passed else "failed", c.detail] for c in checks]
    console.print(table("", ["check", "verdict", "detail"], rows, left=3))
