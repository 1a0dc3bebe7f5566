"""`resx doctor`: what this machine can do, and what would help where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.options.output import OutputOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.machine import Machine


def doctor(printing: OutputOptions, repository: RepositoryPath = DEFAULT_REPOSITORY) -> None:
    """Check Python, PyTorch, ONNX Runtime, TensorRT, Triton, C++, GPU, Docker, ports and disk.

    Example: resx doctor
    """
    from resx.serving.embedded.machine_checks import check_machine

    findings = check_machine(repository)
    payload: Machine = {
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

    printing.open().result(payload, show)
