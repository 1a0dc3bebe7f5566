"""Run loads one after another, and say of each whether its figures may be used.

A window opens after the warm-up, at the moment when the server's statistics have been read, and closes before they are
read again, so that client and server speak of the same time to within the requests in flight and those of the two
readings. In a closed loop a request belongs to the window if its answer came in it; in an open one if it was due in it,
however late its answer.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from resx.bench import null_server
from resx.bench.load import wire
from resx.bench.load.generator import Generators, tasks
from resx.bench.load.http_loop import DESCRIPTORS_LEFT
from resx.bench.load.inputs import NOTHING_SAID, Inputs
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import Payloads, first_request, in_shared_memory, require_batch, unchecked_payloads
from resx.bench.load.request_times import LoadProgress, Records
from resx.bench.load.wire import Target
from resx.bench.results.gpu_sampling import GpuSampler, GpuUse
from resx.bench.results.quotas import quotas_of
from resx.bench.results.response_cache import Counts, cached_share, models_with_cache, read_counts
from resx.bench.results.result import (
    BenchResult,
    Client,
    Measurement,
    environment,
    histogram_text,
    is_local,
)
from resx.bench.results.right_answers import compare_answers
from resx.bench.results.samples import Samples, histogram, merge, percentiles
from resx.bench.results.server_statistics import ServerBreakdown, breakdown
from resx.bench.results.server_use import UseBefore, use_after, use_before
from resx.bench.results.verdict import (
    Findings,
    reasons_against,
    remarks_on,
)
from resx.bench.results.window_figures import Window, late_in, seconds_of, stability_of
from resx.errors import MissingCapability, ResxError, UsageError
from resx.machine import lacks_open_files
from resx.repository.image_endpoint import OWNER, takes_a_file
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.running.gpu_use import GpuReader, reader_of

_reader_of = functools.cache(reader_of)
_GONE_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Extras:
    """What else is wanted of a measurement."""

    payloads: Callable[[Target, int], Payloads] | None = None
    """Makes the requests' contents for a batch size; None: noise."""
    shared_memory: bool = False
    measure_ceiling: bool = True
    ceilings: dict[tuple[str, str, int], float] = field(default_factory=dict)
    """The generator's limits that were measured, per process, by protocol, model and batch size: once each."""
    gpu_reader: Callable[[Address], GpuReader | None] = _reader_of
    """Finds what reads the server's GPUs, once for each server."""
    on_progress: Callable[[LoadProgress, float], None] = lambda _progress, _left_s: None
    """Told what the generators say, and how many seconds are left."""
    on_samples: Callable[[Measurement, Samples, int], None] = lambda _measured, _samples, _opened_ns: None
    """Given every sample of a window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """The server's statistics, taken at some moment between two of ours; empty where the server is gone."""

    statistics: list[dict[str, Any]]
    begun_ns: int
    ended_ns: int
    cache: Counts | None
    """Of the response caches; None where the server is gone."""


@dataclass(slots=True)
class _Seen:
    """One run of the generators."""

    records: list[Records] = field(default_factory=list)
    opened_ns: int = 0
    closed_ns: int = 0
    cpu_s: float = 0.0
    interrupted: str = ""
    """Why the window closed early."""
    readings: list[_Reading] = field(default_factory=list)
    throttled: tuple[str, ...] = ()
    """Who stood still for want of CPU quota, and how often."""
    gpus: tuple[GpuUse, ...] | None = None
    """What the server's GPUs did in the window."""
    use: UseBefore = field(default_factory=UseBefore)
    server_cpu_s: float = 0.0
    """Processor time of the server in the window."""
    cached_models: tuple[str, ...] = ()
    """That may answer from a response cache."""

    @property
    def server(self) -> ServerBreakdown | None:
        """What the server says of the time between the two readings."""
        statistics = [reading.statistics for reading in self.readings]
        return breakdown(*statistics) if len(statistics) == 2 and all(statistics) else None

    @property
    def cached_share(self) -> float | None:
        """Return which share of the answers between the two readings came from a response cache, if that is known."""
        return cached_share(self.readings[0].cache, self.readings[-1].cache) if self.readings else None

    def most_served(self, samples: Samples) -> int:
        """Return how many requests of ours the server can have counted: those open at some moment between readings.

        A reading takes the longer the busier the server is, and the load goes on during it.
        """
        if len(self.readings) < 2:
            return 0
        before, after = self.readings
        return int(((samples.done_ns >= before.begun_ns) & (samples.sent_ns <= after.ended_ns)).sum())


def run(
    address: Address,
    model: str,
    plans: Sequence[LoadPlan],
    *,
    version: int | None = None,
    extras: Extras = Extras(),
    on_measured: Callable[[Measurement], None] = lambda _measurement: None,
    command: str = "",
) -> BenchResult:
    """Run the plans one after another.

    Raises:
        UsageError: the model is not loaded, or takes no batch of that size.
        MissingCapability: no server answers.
        ResxError: the first request failed; the server's own reason.
    """
    target = target_of(address, model, version)
    measurements: list[Measurement] = []
    for plan in plans:
        measurements.append(measure(target, plan, extras))
        on_measured(measurements[-1])
        if measurements[-1].interrupted:
            break
    return result_of(target, measurements, command=command)


def target_of(address: Address, model: str, version: int | None, inputs: Inputs = NOTHING_SAID) -> Target:
    """Ask the server for the model's interface, and for an answer.

    Raises:
        UsageError: the model is not loaded, or its input is open where `inputs` says nothing, or something else.
        MissingCapability: no server answers.
        ResxError: the request failed; the server's own reason.
    """
    with TritonClient(address) as client:
        interface, rows = inputs.close(model, client.interface(model, version))
    owner = None
    if takes_a_file(interface):
        owner = target_of(address, interface.parameters[OWNER], None)
    target = Target(
        address=address, model=model, version=version, answering=0, interface=interface, rows=rows, owner=owner
    )
    with TritonClient(address) as client:
        return replace(target, answering=client.answering(model, interface, first_request(target), version))


def result_of(target: Target, measurements: Sequence[Measurement], *, command: str = "") -> BenchResult:
    """Return the measurements with where they were made."""
    with TritonClient(target.address) as client:
        try:
            triton, config = client.server_version(), client.config(target.model)
        except ResxError:  # it went away in the middle; what was measured is kept
            triton, config = "gone", {}
    return BenchResult(
        model=target.model,
        version=target.version,
        url=str(target.address),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        environment=environment(target.address, triton, config),
        measurements=tuple(measurements),
    )


def measure(target: Target, plan: LoadPlan, extras: Extras = Extras(), repeat: int = 1) -> Measurement:
    """Run one plan.

    Raises:
        UsageError: the model takes no batch of that size.
        ResxError: the first request failed; the server's own reason.
    """
    require_batch(target.model, target.interface, plan.batch_size)
    if extras.shared_memory and target.interface.input_type == "BYTES":
        raise UsageError(f"--shared-memory: {target.model} takes strings, which have no fixed size; remove it")
    make = extras.payloads or (lambda target, batch_size: unchecked_payloads(target, batch_size, plan.seed))
    payloads = make(target, plan.batch_size)
    with TritonClient(target.address, timeout_s=plan.timeout_s) as client:
        client.answering(target.model, target.interface, payloads.tensors[0], target.version)
        if not extras.shared_memory:
            return _measure_one(client, target, plan, payloads, wire.requests(target, payloads.tensors), extras, repeat)
        with in_shared_memory(client, payloads) as places:
            requests = wire.requests(target, payloads.tensors, places)
            return _measure_one(client, target, plan, payloads, requests, extras, repeat)


def _measure_one(
    client: TritonClient,
    target: Target,
    plan: LoadPlan,
    payloads: Payloads,
    requests: tuple[bytes, ...],
    extras: Extras,
    repeat: int,
) -> Measurement:
    parts = tasks(plan, target, requests)
    connections = max(part.concurrency for part in parts) if target.address.protocol == "http" else 1
    if reason := lacks_open_files(connections + DESCRIPTORS_LEFT, "such a load"):
        raise MissingCapability(reason)
    ceiling = None
    if extras.measure_ceiling:
        known = (target.address.protocol, target.model, plan.batch_size)
        if known not in extras.ceilings:
            extras.ceilings[known] = null_server.ceiling_per_s(parts[0], target.interface.num_classes, plan.batch_size)
        ceiling = plan.processes * extras.ceilings[known]
    seen = _Seen(cached_models=models_with_cache(client, target.model))
    with Generators(parts) as generators:
        sampler = GpuSampler(extras.gpu_reader(target.address))
        generators.wait_until_ready()
        _run(client, target, plan, generators, seen, extras, sampler)
    samples = merge(seen.records)
    measured = _summary(target, plan, payloads, seen, samples, ceiling, repeat)
    extras.on_samples(measured, _in_window(samples, plan, seen), seen.opened_ns)
    return measured


def _run(
    client: TritonClient,
    target: Target,
    plan: LoadPlan,
    generators: Generators,
    seen: _Seen,
    extras: Extras,
    sampler: GpuSampler,
) -> None:
    """Warm up, open the window, close it; Ctrl-C closes it early."""
    begun = time.monotonic_ns()
    total_s = plan.warmup_s + plan.duration_s

    def until(end_ns: int) -> str:
        """Wait; return why it ended early, or nothing."""
        alive_ns = time.monotonic_ns()
        while (now := time.monotonic_ns()) < end_ns:
            word = generators.watch(min(end_ns, now + 500_000_000))
            if word is None:
                continue
            extras.on_progress(word, total_s - (now - begun) / 1e9)
            if word.answered or not word.failed:
                alive_ns = now
            elif now - alive_ns > _GONE_S * 1e9:
                return f"no answer for {_GONE_S:g} s"
        return ""

    try:
        seen.interrupted = until(begun + int(plan.warmup_s * 1e9))
        _read(client, target, seen)
        quotas = quotas_of(target.address)
        seen.use = use_before(target.address)
        cpu, seen.opened_ns = generators.cpu_s(), time.monotonic_ns()
        if not seen.interrupted:
            sampler.start()
            seen.interrupted = until(seen.opened_ns + int(plan.duration_s * 1e9))
    except KeyboardInterrupt:
        seen.interrupted = "Ctrl-C"
        if not seen.opened_ns:
            quotas = quotas_of(target.address)
            cpu, seen.opened_ns = generators.cpu_s(), time.monotonic_ns()  # of the warm-up nothing counts
    seen.closed_ns = time.monotonic_ns()
    seen.cpu_s, seen.server_cpu_s = generators.cpu_s() - cpu, seen.use.cpu_since()
    seen.gpus = sampler.stop()
    seen.throttled = quotas.used_up()
    _read(client, target, seen)
    seen.records = generators.stop()


def _read(client: TritonClient, target: Target, seen: _Seen) -> None:
    """Read the server's statistics; a server that is gone has none, and the load goes on to say so."""
    begun_ns = time.monotonic_ns()
    try:
        statistics = client.statistics(target.model, target.version)
    except ResxError:
        statistics = []
    ended_ns, cache = time.monotonic_ns(), read_counts(client, seen.cached_models)
    seen.readings.append(_Reading(statistics=statistics, begun_ns=begun_ns, ended_ns=ended_ns, cache=cache))


def _in_window(samples: Samples, plan: LoadPlan, seen: _Seen) -> Samples:
    moment = samples.due_ns if plan.is_open else samples.done_ns
    return samples.where((moment >= seen.opened_ns) & (moment < seen.closed_ns))


def _summary(
    target: Target,
    plan: LoadPlan,
    payloads: Payloads,
    seen: _Seen,
    samples: Samples,
    ceiling: float | None,
    repeat: int,
) -> Measurement:
    window = _in_window(samples, plan, seen)
    answered = window.answered
    window_s = (seen.closed_ns - seen.opened_ns) / 1e9
    # In an open loop what was due in the window may have been answered after it: that is no throughput of the window.
    done = samples.answered
    in_time = int(((done.done_ns >= seen.opened_ns) & (done.done_ns < seen.closed_ns)).sum())
    per_s = in_time / window_s if window_s else 0.0
    latency = percentiles(answered.latencies_ms)
    server = seen.server
    client = Client(
        processes=plan.processes,
        cpu_ms_per_request=seen.cpu_s / in_time * 1e3 if in_time else None,
        cpu_share=seen.cpu_s / window_s if window_s else 0.0,
        ceiling_requests_per_s=ceiling,
    )
    late = late_in(window, latency.p50_ms) if plan.is_open else None
    answers = compare_answers(target, payloads, plan.batch_size, _answers(seen) if payloads.expected else ())
    stability = stability_of(done, Window(seen.opened_ns, seen.closed_ns))
    findings = Findings(
        plan=plan,
        sent=len(window),
        answered=len(answered),
        window_s=window_s,
        requests_per_s=per_s,
        client=client,
        late=late,
        answers=answers,
        stability=stability,
        server=server,
        cached_share=seen.cached_share,
        most_served=seen.most_served(samples),
        interrupted=seen.interrupted,
        server_is_local=is_local(target.address),
        throttled=seen.throttled,
    )
    failed = len(window) - len(answered)
    use = use_after(seen.use, seen.server_cpu_s, in_time)
    return Measurement(
        model=target.model,
        version=target.version,
        label=target.label,
        url=str(target.address),
        load="open" if plan.is_open else "closed",
        concurrency=plan.concurrency,
        rate_per_s=plan.rate_per_s,
        arrivals=plan.arrivals if plan.is_open else "",
        batch_size=plan.batch_size,
        repeat=repeat,
        window_s=window_s,
        requests=len(answered),
        sent=len(window),
        failed=failed,
        images_per_s=per_s * plan.batch_size,
        requests_per_s=per_s,
        mean_ms=latency.mean_ms,
        p50_ms=latency.p50_ms,
        p90_ms=latency.p90_ms,
        p95_ms=latency.p95_ms,
        p99_ms=latency.p99_ms,
        p99_9_ms=latency.p99_9_ms,
        max_ms=latency.max_ms,
        service=percentiles(answered.service_ms),
        errors=window.error_counts,
        client_cpu_ms_per_request=client.cpu_ms_per_request,
        client=client,
        late=late,
        answers=answers,
        contents=payloads.contents,
        stability=stability,
        server=server,
        cached_share=seen.cached_share,
        gpus=seen.gpus,
        server_use=use,
        server_use_missing="" if use else seen.use.missing or "the server ended",
        seconds=seconds_of(window, Window(seen.opened_ns, seen.closed_ns), is_open=plan.is_open),
        hdr=histogram_text(histogram(answered.latencies_ms)) if len(answered) else "",
        interrupted=bool(seen.interrupted),
        invalid=reasons_against(findings),
        remarks=remarks_on(findings),
    )


def _answers(seen: _Seen) -> list[tuple[int, int, bytes]]:
    found = (answer for record in seen.records for answer in record.answers)
    return [answer for answer in found if seen.opened_ns <= answer[0]]
