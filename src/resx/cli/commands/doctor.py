"""`resx doctor`: what this machine can do, and what would help where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from resx.cli.options.shared import Json, Quiet, RepositoryPath
from resx.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("doctor")(doctor)


def doctor(repository: RepositoryPath = Path("model_repository"), json: Json = False, quiet: Quiet = False) -> None:
    """Check Python, PyTorch, ONNX Runtime, TensorRT, Triton, C++, GPU, Docker, ports and disk.

    Example: resx doctor
    """
    from resx.serving.embedded.machine_checks import check_machine

    findings = check_machine(repository)
    payload = {
        "checks": [
            {
                "what": f.what,
                "found": f.found,
                "detail": f.detail,
                "remedy": f.remedy,
                "needed_for": f.needed_for,
                "state": f.state,
            }
            for f in findings
        ]
    }

    def show(console: Console) -> None:
        rows = [[f.what, f.state, f.detail, f.needed_for, f.remedy] for f in findings]
        console.print(table("", ["what", "", "detail", "needed for", "remedy"], rows, left=5))

    Output(as_json=json, quiet=quiet).result(payload, show)
