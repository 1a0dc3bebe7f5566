"""The files that a benchmark writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from resx.cli.options.grouping import output_option

if TYPE_CHECKING:
    from resx.bench.result_files import ResultFiles

ResultFile: TypeAlias = Annotated[
    Path | None, output_option("-o", "--output", metavar="FILE", help="Also write the result as JSON.")
]
Report: TypeAlias = Annotated[
    Path | None, output_option("--report", metavar="FILE", help="One HTML file with all charts.")
]
Csv: TypeAlias = Annotated[Path | None, output_option("--csv", metavar="FILE", help="With perf_analyzer's columns.")]
Samples: TypeAlias = Annotated[
    Path | None, output_option("--samples", metavar="FILE", help="Every request, JSON lines.")
]
HdrLog: TypeAlias = Annotated[Path | None, output_option("--hdr-log", metavar="FILE", help="HDR histogram log.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchFiles:
    """Which files are written."""

    output: ResultFile = None
    report: Report = None
    csv: Csv = None
    samples: Samples = None
    hdr_log: HdrLog = None

    def wanted(self) -> ResultFiles:
        """Return them.

        Raises:
            UsageError: one cannot be written, or by its name is of no known kind.
        """
        from resx.bench.result_files import ResultFiles

        files = ResultFiles(
            json=self.output, csv=self.csv, samples=self.samples, hdr_log=self.hdr_log, html=self.report
        )
        files.require_writable()
        return files
