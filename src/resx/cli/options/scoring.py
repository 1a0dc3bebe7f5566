"""What `resx predict` reads and writes, and where it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.options.aliases import Alias
from resx.cli.options.connection import OF_A_SERVER, USUAL_ACCESS, Retries, ServerAccess
from resx.cli.options.grouping import output_option
from resx.cli.options.resuming import IgnoreTimes, Resume
from resx.cli.options.validation import choose
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.scoring.in_process import Device
    from resx.serving.client.address import Address

_source_option = partial(typer.Option, rich_help_panel="Source")
_server_option = partial(typer.Option, rich_help_panel="Server")
_ray_option = partial(typer.Option, rich_help_panel="Ray")
_OF_RAY = ("ray_actors", "ray_cpus")

Column: TypeAlias = Annotated[
    str, _source_option(metavar="NAME", help="Parquet column with the image bytes. Default: the only one.")
]
ImagesFrom: TypeAlias = Annotated[
    str,
    _source_option(metavar="DIR", help="Folder for images that Parquet names by path. Default: the table's folder."),
]
ScoringDevice: TypeAlias = Annotated[
    str, typer.Option(metavar="[cpu|cuda]", help="For this process or --ray. Default: cpu.")
]
ServerUrl: TypeAlias = Annotated[
    str,
    _server_option(
        metavar="URL",
        help="Compute on a Triton server: host:port, or grpc://, grpcs://, http:// or https:// and host:port.",
    ),
    Alias(name="--server"),
]
InFlight: TypeAlias = Annotated[
    int, _server_option(min=1, max=64, metavar="N", help="In-flight batches at the server.")
]
RayAddress: TypeAlias = Annotated[
    str,
    _ray_option(
        "--ray",
        metavar="ADDRESS",
        help=(
            "Compute on a Ray cluster: the head's HOST:6379, auto on one of its nodes, or local for a new one on this "
            "machine."
        ),
    ),
]
RayActors: TypeAlias = Annotated[
    int, _ray_option(min=0, metavar="N", help="Processes on the cluster. Default: as many as fit on its nodes.")
]
RayCpus: TypeAlias = Annotated[
    int, _ray_option(min=1, metavar="N", help="CPUs per process; with --device cuda also a GPU each.")
]
ScoresFile: TypeAlias = Annotated[
    Path, output_option("-o", "--output", metavar="FILE", help="Ends in .parquet, .csv or .jsonl.")
]
Overwrite: TypeAlias = Annotated[
    bool, output_option("--overwrite", metavar="", help="Start over; the output is replaced at the end.")
]
CsvSafe: TypeAlias = Annotated[
    bool, output_option("--csv-safe", metavar="", help="For spreadsheets: escape .csv cells that are formulas.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceColumns:
    """Where a table has its images."""

    column: Column = ""
    images_from: ImagesFrom = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoresOptions:
    """Where the scores go, and what is to be done with those that are there."""

    output: ScoresFile
    resume: Resume = False
    ignore_times: IgnoreTimes = False
    overwrite: Overwrite = False
    csv_safe: CsvSafe = False

    def require_fitting(self) -> None:
        """Refuse a file that has no format, and options that mean nothing without another.

        Raises:
            UsageError: that is so.
        """
        from resx.scoring.output import require_format

        require_format(self.output, csv_safe=self.csv_safe)
        if self.ignore_times and not self.resume:
            raise UsageError("--ignore-times: applies to an earlier run's files; add --resume")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringPlace:
    """Where the scores are computed: here, on a server, or on a cluster."""

    device: ScoringDevice = ""
    url: ServerUrl = ""
    in_flight: InFlight = 4
    retries: Retries = 8
    access: ServerAccess = USUAL_ACCESS
    ray: RayAddress = ""
    ray_actors: RayActors = 0
    ray_cpus: RayCpus = 1

    def require_one(self, typed: Mapping[str, str]) -> None:
        """Refuse two places, and options for a place that is not named.

        Raises:
            UsageError: there are some.
        """
        if self.url and self.ray:
            raise UsageError(f"--url, --ray {self.ray}: both choose where to compute; give only one")
        if self.url and self.device:
            raise UsageError(f"--url, --device {self.device}: the server chooses its device; remove one of the two")
        if not self.ray and any(name in typed for name in _OF_RAY):
            raise UsageError("--ray-actors, --ray-cpus: apply to a Ray cluster; add --ray")
        if not self.url and any(name in typed for name in OF_A_SERVER):
            raise UsageError("--protocol, --ca, --cert, --key, --header: apply to a server; add --url")

    def address(self, repository: Path) -> Address:
        """Return the server's address."""
        return self.access.address(self.url, repository)

    def kind(self) -> Device:
        """Return what computes, on this machine or on a cluster's nodes."""
        from resx.scoring.in_process import DEVICES

        return choose("--device", self.device or "cpu", DEVICES)
