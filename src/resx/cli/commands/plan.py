"""`resx plan`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options.shared import Ca, Cert, Header, Json, Key, Quiet, RepositoryPath, Seed, Shape, Url, choose, finite
from resx.cli.output import Output, print_lines, table
from resx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from resx.bench.capacity.capacity_plan import CapacityPlan, Estimate
    from resx.bench.capacity.service_times import ServiceTimes
    from resx.bench.capacity.simulation import Batching
    from resx.bench.load.inputs import Inputs
    from resx.bench.results.result import Interval
    from resx.cli.commands.bench_run import BenchAccess


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("plan")(plan)


def plan(
    name: Annotated[str, typer.Argument(help="A model; NAME:VERSION for one version.")],
    rate: Annotated[
        float, typer.Option(callback=finite, help="Requests a second, of one image, at all replicas together.")
    ],
    slo: Annotated[str, typer.Option(help="What must hold, as p99=50ms.")],
    bench: Annotated[
        Path | None,
        typer.Option("--bench", metavar="FILE", help="A result of `resx bench -o`. Default: measure now."),
    ] = None,
    arrivals: Annotated[str, typer.Option(help="poisson or constant.")] = "poisson",
    balancing: Annotated[str, typer.Option(help="random, round-robin or least-connections.")] = "random",
    cost_per_hour: Annotated[
        float | None, typer.Option("--cost-per-hour", callback=finite, help="Of one replica.")
    ] = None,
    batcher_sleep: Annotated[
        float,
        typer.Option(
            "--batcher-sleep",
            min=0,
            callback=finite,
            help="ms; 500 for NVIDIA's container, as docs/serving.md explains.",
        ),
    ] = 0.0,
    duration: Annotated[float, typer.Option(min=0.5, callback=finite, help="Seconds to measure, per load.")] = 4.0,
    shape: Shape = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Send the rows of a .npy array. Default: noise.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw into a png, svg or pdf.")] = None,
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: Annotated[str, typer.Option("--protocol", help="http or grpc. Default: http.")] = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how many replicas hold a latency bound at a rate, by simulating them from measured service times.

    A replica is a server like the measured one, on a machine like its. Without --bench the running server is
    measured, and --bench needs none. Exit code 3 if no number of replicas can hold the bound.

    Example: resx plan resnet50 --rate 5000 --slo p99=50ms --cost-per-hour 0.4
    """
    from resx.bench.capacity.capacity_plan import Question, plan_replicas
    from resx.bench.capacity.chart import draw
    from resx.bench.capacity.simulation import BALANCINGS
    from resx.bench.load.inputs import ROWS_SUFFIX, Inputs
    from resx.bench.load.load_plan import ARRIVALS
    from resx.bench.report.figure_file import require_drawable
    from resx.bench.tuning.highest_rate import parse_slo
    from resx.cli.commands.bench_run import BenchAccess
    from resx.repository.versions import Repository

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
        raise UsageError(f"--data {data}: give a .npy file; images take the time of noise")
    if bench is not None and (shape or data):
        raise UsageError("--shape, --data: are for measuring, and --bench was measured; leave them out")
    inputs = Inputs.read(shape or [], data)
    out = Output(as_json=json, quiet=quiet)
    access = BenchAccess(
        repository=Repository(repository),
        url=url,
        protocol=protocol,
        ca=ca,
        cert=cert,
        key=key,
        headers=tuple(header or ()),
    )
    with out.steps() as step:
        if bench is None:
            times, batching = _measure(name, access, inputs, batcher_sleep, duration, seed, step)
        else:
            times, batching = _read(name, bench, access, batcher_sleep)
        found = plan_replicas(times, batching, question, step)
        if plot is not None:
            step(f"drawing {plot}")
            draw(found, batching, question, plot)
    out.result(found.model_dump(mode="json"), lambda console: _show(console, found, plot))


def _measure(
    name: str,
    access: BenchAccess,
    inputs: Inputs,
    sleep_ms: float,
    duration_s: float,
    seed: int,
    step: Callable[[str], None],
) -> tuple[ServiceTimes, Batching]:
    from resx.bench.capacity.service_times import batching_of, measure_now, service_times
    from resx.cli.commands.bench_run import target_of
    from resx.serving.client.client import TritonClient

    target = target_of(name, access, inputs)
    inputs.require_used({target.model: target.interface})
    if target.owner is not None:
        raise UsageError(
            f"{name}: is an image endpoint, several models in a row, which is not simulated; plan {target.owner.model}"
        )
    with TritonClient(target.address) as client:
        batching = batching_of(client.config(target.model), sleep_ms)
    result = measure_now(target, batching, duration_s=duration_s, seed=seed, on_load=step)
    return service_times(result, target.model, batching, target.version), batching


def _read(name: str, bench: Path, access: BenchAccess, sleep_ms: float) -> tuple[ServiceTimes, Batching]:
    """Read a result and the model's configuration from the repository, without a server."""
    from resx.bench.capacity.service_times import batching_of, service_times
    from resx.bench.results.result import read_result
    from resx.serving.embedded.backend_session import served_config

    match = re.fullmatch(r"([^@:]+)(?::([1-9]\d*))?", name)
    if match is None:
        raise UsageError(f"{name!r}: give NAME or NAME:VERSION with --bench; no server is asked")
    version = int(match[2]) if match[2] else None
    result = read_result(bench)
    folder = access.repository.version_folder(match[1], version).parent
    batching = batching_of(served_config(folder), sleep_ms)
    return service_times(result, match[1], batching, version, str(bench)), batching


def _show(console: Console, found: CapacityPlan, plot: Path | None) -> None:
    times = found.service
    means = ", ".join(f"{size}: {times.mean_ms[size - 1]:.2f}" for size in times.runs if size <= len(times.mean_ms))
    console.print(
        f"{found.model}: {found.replicas} replica{'s' if found.replicas > 1 else ''} hold {found.slo} at "
        f"{found.rate_per_s:g}/s ({found.arrivals}, {found.balancing})",
        markup=False,
        soft_wrap=True,
    )
    shown = [found.expected] if found.one_fewer is None else [found.expected, found.one_fewer]
    columns = ["replicas", "p50 ms", "p99 ms", "utilisation", "mean batch", "refused", "holds"]
    console.print(table("", columns, [_row(one) for one in shown], left=0))
    lines = [
        f"headroom: these hold it up to {found.highest_rate_per_s:.4g}/s, {found.headroom:.2f} of what is asked; "
        f"in full batches a replica answers {found.capacity_per_s:.4g}/s",
        "one lost: " + _after_a_loss(found),
        f"computation by batch size, ms: {means}; outside of it {times.overhead_ms:.2f} ms; a request alone "
        f"{found.alone_ms:.3g} ms",
    ]
    if found.cost_per_hour is not None and found.cost_per_million is not None:
        lines.append(f"cost: {found.cost_per_hour:.4g} an hour, {found.cost_per_million:.4g} per million requests")
    lines.append("simulated from one machine's service times; docs/capacity.md says how far to trust it")
    if plot is not None:
        lines.append(f"wrote {plot}")
    print_lines(console, lines)


def _row(one: Estimate) -> list[str]:
    return [
        str(one.replicas),
        _ms(one.p50_ms),
        _ms(one.p99_ms),
        f"{one.utilisation:.0%}",
        f"{one.mean_batch_size:.1f}",
        f"{one.refused:.2%}",
        "yes" if one.holds else "no",
    ]


def _ms(value: Interval | None) -> str:
    return "n/a" if value is None else f"{value.mean:.2f} ± {value.half_width:.2f}"


def _after_a_loss(found: CapacityPlan) -> str:
    fewer = found.one_fewer
    if fewer is None:
        return "nothing answers; 2 replicas hold it then too"
    if fewer.p99_ms is None:
        return f"{fewer.replicas} are overloaded and refuse {fewer.refused:.1%}; {found.replicas + 1} hold it then too"
    return (
        f"p99 {fewer.p99_ms.mean:.1f} ms, {fewer.refused:.2%} refused; {found.replicas + 1} replicas hold it then too"
    )
