"""`resx bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.options import Ca, Cert, Header, Json, Key, ProtocolName, Quiet, RepositoryPath, Seed, Url
from resx.cli.output import Output, table
from resx.errors import ResxError, UsageError

if TYPE_CHECKING:
    from resx.bench.report import BenchResult, Measurement

COLUMNS = ["concurrency", "batch", "images/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "errors",
           "queue ms", "compute ms", "mean batch", "client ms"]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("bench")(bench)


def bench(
    name: Annotated[str, typer.Argument(help="A model that is loaded.")],
    concurrency: Annotated[str, typer.Option(help="Requests in flight: a number or a list.")] = "1,4,8",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images in a request.")] = 1,
    duration: Annotated[float, typer.Option(help="Seconds to measure, per load.")] = 10.0,
    warmup: Annotated[float, typer.Option(help="Seconds before that, not counted.")] = 2.0,
    version: Annotated[int, typer.Option(min=0, help="0: the newest that is loaded.")] = 0,
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: ProtocolName = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency and throughput in a closed loop; n/a where the samples do not suffice.

    queue and compute are Triton's own means per request; client is this process's CPU time per request.

    Example: resx bench resnet50 --concurrency 1,4,8
    """
    from resx.bench.load import LoadPlan
    from resx.bench.report import run
    from resx.cli.connection import address_of
    from resx.serving.repository import Repository

    plans = [
        LoadPlan(concurrency=count, batch_size=batch_size, duration_s=duration, warmup_s=warmup, seed=seed)
        for count in _counts(concurrency)
    ]
    address = address_of(url, protocol, Repository(repository), ca=ca, cert=cert, key=key, headers=header)
    out = Output(as_json=json, quiet=quiet)
    with out.steps() as step:
        step(f"concurrency {plans[0].concurrency}")
        following = iter([*(f"concurrency {plan.concurrency}" for plan in plans[1:]), "sum up"])
        result = run(address, name, plans, version=version or None, on_measured=lambda _done: step(next(following)))
    show_result(out, result)
    failed = sum(sum(measured.errors.values()) for measured in result.measurements)
    if failed:
        sent = failed + sum(measured.requests for measured in result.measurements)
        reason = next(message for measured in result.measurements for message in measured.errors)
        raise ResxError(f"{failed} of {sent} requests failed: {reason}")


def show_result(out: Output, result: BenchResult) -> None:
    """Print a benchmark."""
    rows = [row(measured) for measured in result.measurements]
    environment = result.environment
    shared = ", shared with the server" if environment.server_is_local else ""
    title = (
        f"{result.model} on {result.url}, Triton {environment.triton}; client: {environment.usable_cores} cores{shared}"
    )
    out.result(result.model_dump(mode="json"), lambda console: console.print(title, table("", COLUMNS, rows, left=0)))


def row(measured: Measurement) -> list[str]:
    """Return a measurement's cells under COLUMNS."""
    server = measured.server
    queue = server.queue_ms if server else None
    compute = server.compute_input_ms + server.compute_infer_ms + server.compute_output_ms if server else None
    return [
        str(measured.concurrency), str(measured.batch_size), f"{measured.images_per_s:.1f}",
        *(_ms(value) for value in (measured.p50_ms, measured.p90_ms, measured.p99_ms, measured.max_ms)),
        str(sum(measured.errors.values())), _ms(queue), _ms(compute),
        f"{server.mean_batch_size:.1f}" if server else "n/a", _ms(measured.client_cpu_ms_per_request),
    ]  # fmt: skip


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _counts(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--concurrency {text}: give a number or a list such as 1,4,8")
    return [int(part) for part in parts]
