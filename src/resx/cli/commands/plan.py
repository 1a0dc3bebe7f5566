"""`resx plan`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_model_version
from resx.cli.options.connection import LoadConnection
from resx.cli.options.figure import Plot
from resx.cli.options.load import Arrivals, Shape
from resx.cli.options.output import TableOptions
from resx.cli.options.seed import Seed
from resx.cli.options.validation import choose, finite
from resx.cli.views.capacity_plan import show_plan
from resx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from resx.bench.capacity.service_times import ServiceTimes
    from resx.bench.capacity.simulation import Batching
    from resx.bench.load.inputs import Inputs

_measured_option = partial(typer.Option, rich_help_panel="Measurement")
_replicas_option = partial(typer.Option, rich_help_panel="Replicas")


def plan(
    name: Annotated[
        str, typer.Argument(help="A model; NAME:VERSION for one version.", autocompletion=complete_model_version)
    ],
    rate: Annotated[
        float, typer.Option(callback=finite, metavar="X", help="Single-image requests per second, over all replicas.")
    ],
    slo: Annotated[str, typer.Option(metavar="pNN=TIME", help="Latency objective, such as p99=50ms.")],
    arrivals: Arrivals = "poisson",
    balancing: Annotated[
        str, _replicas_option(metavar="[random|round-robin|least-connections]", help="How requests reach the replicas.")
    ] = "random",
    cost_per_hour: Annotated[
        float | None,
        _replicas_option(
            "--cost-per-hour", callback=finite, metavar="X", help="Price of one replica, in any currency."
        ),
    ] = None,
    batcher_sleep: Annotated[
        float,
        _replicas_option(
            "--batcher-sleep",
            min=0,
            callback=finite,
            metavar="MS",
            help="Milliseconds that the batcher sleeps: 500 in NVIDIA's container (docs/serving-speed.md).",
        ),
    ] = 0.0,
    bench: Annotated[
        Path | None,
        _measured_option("--bench", metavar="FILE", help="A result of `resx bench -o`. Default: measure now."),
    ] = None,
    duration: Annotated[
        float, _measured_option(min=0.5, callback=finite, metavar="SECONDS", help="Seconds to measure, per load.")
    ] = 4.0,
    data: Annotated[
        Path | None, _measured_option(metavar="FILE", help="Send the rows of a .npy array. Default: noise.")
    ] = None,
    shape: Shape = None,
    *,
    server: LoadConnection,
    plot: Plot = None,
    printing: TableOptions,
    seed: Seed = 0,
) -> None:
    """Compute how many replicas of a served model meet a latency objective at a request rate, by simulation.

    Assumes identical replicas, one per machine. Without --bench, the running server is measured.

    Exit code 3 if no number of replicas meets the objective.

    Example: resx plan resnet50 --rate 5000 --slo p99=50ms --cost-per-hour 0.4
    """
    from resx.bench.capacity.capacity_plan import Question, plan_replicas
    from resx.bench.capacity.chart import capacity_figure
    from resx.bench.capacity.simulation import BALANCINGS
    from resx.bench.load.inputs import ROWS_SUFFIX, Inputs
    from resx.bench.load.load_plan import ARRIVALS
    from resx.bench.tuning.highest_rate import parse_slo
    from resx.figures import draw_figure, require_drawable

    question = Question(
        rate_per_s=rate,
        slo=parse_slo(slo),
        arrivals=choose("--arrivals", arrivals, ARRIVALS),
        balancing=choose("--balancing", balancing, BALANCINGS),
        cost_per_hour=cost_per_hour,
        seed=seed,
    )
    if plot is not None:
        require_drawable(plot)
    if data is not None and data.suffix != ROWS_SUFFIX:
        raise UsageError(f"--data {data}: give a .npy file; images take as long as noise")
    if bench is not None and (shape or data):
        raise UsageError("--shape, --data: apply to a new measurement, but --bench gives a finished one; remove them")
    inputs = Inputs.read(shape or [], data)
    out = printing.open()
    with out.steps() as step:
        if bench is None:
            times, batching = _measure(name, server, inputs, batcher_sleep, duration, seed, step)
        else:
            times, batching = _read(name, bench, server, batcher_sleep)
        found = plan_replicas(times, batching, question, step)
        if plot is not None:
            step(f"draw {plot}")
            draw_figure(capacity_figure(found, batching, question), plot)
    out.result(found.model_dump(mode="json"), lambda console: show_plan(console, found, plot))


def _measure(
    name: str,
    server: LoadConnection,
    inputs: Inputs,
    sleep_ms: float,
    duration_s: float,
    seed: int,
    step: Callable[[str], None],
) -> tuple[ServiceTimes, Batching]:
    from resx.bench.capacity.service_times import batching_of, measure_now, service_times
    from resx.cli.steps.bench_run import target_of
    from resx.serving.client.client import TritonClient

    target = target_of(name, server, inputs)
    inputs.require_used({target.model: target.interface})
    if target.owner is not None:
        raise UsageError(
            f"{name}: is an image endpoint (a chain of models), which is not simulated; plan {target.owner.model}"
        )
    with TritonClient(target.address) as client:
        batching = batching_of(client.config(target.model), sleep_ms)
    result = measure_now(target, batching, duration_s=duration_s, seed=seed, on_load=step)
    return service_times(result, target.model, batching, target.version), batching


def _read(name: str, bench: Path, server: LoadConnection, sleep_ms: float) -> tuple[ServiceTimes, Batching]:
    """Read a result and the model's configuration from the repository, without a server."""
    from resx.bench.capacity.service_times import batching_of, service_times
    from resx.bench.results.result import read_result
    from resx.repository.versions import Repository
    from resx.serving.embedded.backend_session import served_config

    match = re.fullmatch(r"([^@:]+)(?::([1-9]\d*))?", name)
    if match is None:
        raise UsageError(f"{name!r}: give NAME or NAME:VERSION with --bench; no server is contacted")
    version = int(match[2]) if match[2] else None
    result = read_result(bench)
    folder = Repository(server.repository).version_folder(match[1], version).parent
    batching = batching_of(served_config(folder), sleep_ms)
    return service_times(result, match[1], batching, version, str(bench)), batching
