"""Benchmarks of served models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resx.api.places import address_at, repository_at
from resx.api.written_call import written_call
from resx.errors import UsageError
from resx.names import choose, parse_name
from resx.repository.versions import DEFAULT, Repository

if TYPE_CHECKING:
    from resx.bench.load.load_plan import Arrivals, LoadPlan
    from resx.bench.results.result import BenchResult, Measurement
    from resx.serving.client.address import Protocol


def bench(
    name: str,
    *,
    concurrency: str | int = "",
    rate: str | float = "",
    arrivals: Arrivals = "poisson",
    batch_size: int = 1,
    duration: float = 10.0,
    warmup: float = 2.0,
    timeout: float = 60.0,
    processes: int = 1,
    data: Path | str = "",
    check: bool | None = None,
    repository: Repository | Path | str = DEFAULT,
    url: str = "",
    protocol: Protocol | None = None,
    seed: int = 0,
    on_measured: Callable[[Measurement], None] = lambda _measured: None,
) -> BenchResult:
    """Measure latency and throughput of a served model, as `resx bench` does.

    Args:
        name: a model that is loaded, `NAME` or `NAME:VERSION`.
        concurrency: closed loop, in-flight requests: a number, a list such as `1,4,8`, or a range such as `1:16`.
            Default, without `rate`: `1,4,8`.
        rate: open loop, requests per second: a number, a list or START:END:STEP. Latency counts from when a request
            was due.
        arrivals: of an open loop: `poisson` or `constant`.
        batch_size: images per request.
        duration: seconds to measure, per load.
        warmup: seconds, not counted.
        timeout: seconds after which a request has failed.
        processes: load-generator processes.
        data: a folder of images to send. Default: noise, or what the card can check.
        check: compare a sample of the answers with what the version's card records. None: where possible.
        repository: where cards are, and whose own server is meant.
        url: of the server. Default: the one that serves the repository.
        protocol: `http` or `grpc`. None: http, which costs the client less; grpc for a `url` without http://.
        seed: of noise and arrivals.
        on_measured: called with each load's figures.

    Returns:
        The loads in `measurements`: `images_per_s`, `p50_ms`, `p99_ms` (None: too few samples), the server's breakdown
        and so on. `model_dump_json()` is what `resx bench --json` prints.

    Raises:
        UsageError: the model is not loaded, or a value is out of range.
        MissingCapability: no server answers.
        ParityError: answers are wrong.
        ResxError: requests failed, or the figures must not be used.
    """
    from resx.bench import measuring
    from resx.bench.contents import Contents, facts_of
    from resx.bench.judging import judge

    command = written_call(bench, locals())
    published = repository_at(repository)
    model, version = parse_name(name)
    plans = _plans(
        str(concurrency),
        str(rate),
        arrivals=arrivals,
        batch_size=batch_size,
        duration_s=duration,
        warmup_s=warmup,
        timeout_s=timeout,
        processes=processes,
        seed=seed,
    )
    folder = Path(data) if data else None
    if folder is not None and not folder.is_dir():
        raise UsageError(f"data {folder}: no such folder; give a folder of images")
    address = address_at(url, published, protocol or (None if url else "http"))
    target = measuring.target_of(address, model, version)
    payloads = Contents(repository=published, data=folder, check=check, seed=seed).for_target(target)
    extras = measuring.Extras(payloads=payloads)
    found: list[Measurement] = []
    for plan in plans:
        found.append(measuring.measure(target, plan, extras))
        on_measured(found[-1])
        if found[-1].interrupted:
            break
    facts = {target.name: facts_of(published, target)}
    result = measuring.result_of(target, found, command=command).model_copy(update={"models": facts})
    judge(result)
    return result


def _plans(
    concurrency: str,
    rate: str,
    *,
    arrivals: Arrivals,
    batch_size: int,
    duration_s: float,
    warmup_s: float,
    timeout_s: float,
    processes: int,
    seed: int,
) -> list[LoadPlan]:
    """Return a plan for each load."""
    from resx.bench.load.load_plan import ARRIVALS, LoadPlan, concurrencies, rates

    def plan(in_flight: int, rate_per_s: float) -> LoadPlan:
        return LoadPlan(
            concurrency=in_flight,
            rate_per_s=rate_per_s,
            arrivals=choose("arrivals", arrivals, ARRIVALS),
            batch_size=batch_size,
            duration_s=duration_s,
            warmup_s=warmup_s,
            timeout_s=timeout_s,
            seed=seed,
            processes=processes,
        )

    closed = concurrency or ("" if rate else "1,4,8")
    plans = [plan(count, 0.0) for count in concurrencies(closed)] if closed else []
    return plans + ([plan(0, rate_per_s) for rate_per_s in rates(rate)] if rate else [])
