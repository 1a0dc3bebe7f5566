"""`resx doctor`: what this machine can do, and what would help where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resx.cli.command_lines import command_line
from resx.cli.fitting_table import Cell
from resx.cli.marks import show_done, show_next, verdict
from resx.cli.options.output import TableOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath
from resx.cli.output import table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from resx.cli.results.machine import Machine
    from resx.serving.embedded.machine_checks import Finding

_GPU_ONLY = ("tensorrt", "tensorrt-rtx-cu12", "GPU")
_OPTIONAL = {
    "openvino": "OpenVINO",
    "Docker": "Docker",
    "C++ compiler": "a C++ compiler",
    "Python in Triton": "image endpoints",
}
"""What a server on the CPU does without, as the verdict names it."""


def doctor(printing: TableOptions, repository: RepositoryPath = DEFAULT_REPOSITORY) -> None:
    """Check this machine: Python, PyTorch, ONNX Runtime, TensorRT, Triton, C++, GPU, Docker, ports, disk.

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
        rows: list[list[Cell]] = [[f.what, _state(f), f.detail, f.needed_for, f.remedy] for f in findings]
        columns = ["what", "state", "detail", "needed for", "remedy"]
        console.print(table("", columns, rows, left=5, least=("needed for", "remedy")))
        lacking, optional = judge(findings)
        verdict_line = f"Not ready: {', '.join(lacking)}." if lacking else f"Ready for {_device(findings)}."
        more = f"Optional: {', '.join(optional)}." if optional else ""
        show_done(console, f"{verdict_line} {more}".rstrip(), good=not lacking)
        if not lacking:
            show_next(console, command_line("demo"))

    printing.open().result(payload, show)


def judge(findings: Sequence[Finding]) -> tuple[list[str], list[str]]:
    """Return what is missing for the line from training to serving, and what is missing and can be done without."""
    gone = [one for one in findings if not one.found or one.is_wrong]
    lacking = [one.what for one in gone if one.what not in {*_GPU_ONLY, *_OPTIONAL} and not one.what.startswith("port")]
    optional = ["GPU"] if any(one.what == "GPU" for one in gone) else []
    optional += [_OPTIONAL[one.what] for one in gone if one.what in _OPTIONAL]
    return lacking, optional + [f"{one.what} (in use)" for one in gone if one.what.startswith("port")]


def _device(findings: Sequence[Finding]) -> str:
    return "CPU and GPU" if any(one.what == "GPU" and one.found for one in findings) else "CPU"


def _state(finding: Finding) -> Text:
    """Return the state in green or red, in neither where a server on the CPU does without."""
    if finding.is_wrong or finding.what not in {*_GPU_ONLY, *_OPTIONAL}:
        return verdict(finding.state, good=None if finding.on_first_use else finding.found and not finding.is_wrong)
    return verdict(finding.state, good=True if finding.found and not finding.on_first_use else None)
