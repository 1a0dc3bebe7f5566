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

from resx.bench import null_server
from resx.bench.load import wire
from resx.bench.load.generator import Generators, tasks
from resx.bench.load.http_loop import DESCRIPTORS_LEFT
from resx.bench.load.inputs import NOTHING_SAID, Inputs
from resx.bench.load.load_plan import LoadPlan
from resx.bench.load.payloads import Payloads, first_request, in_shared_memory, require_batch, unchecked_payloads
from resx.bench.load.request_times import LoadProgress
from resx.bench.load.wire import Target
from resx.bench.results.gpu_sampling import GpuSampler
from resx.bench.results.observed_run import ObservedRun, StatisticsReading
from resx.bench.results.quotas import quotas_of
from resx.bench.results.response_cache import models_with_cache, read_counts
from resx.bench.results.result import BenchResult, Measurement, environment
from resx.bench.results.samples import Samples, merge
from resx.bench.results.server_use import use_before
from resx.bench.results.summary import summarize
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
    seen = ObservedRun(cached_models=models_with_cache(client, target.model))
    with Generators(parts) as generators:
        sampler = GpuSampler(extras.gpu_reader(target.address))
        generators.wait_until_ready()
        _run(client, target, plan, generators, seen, extras, sampler)
    samples = merge(seen.records)
    measured = summarize(target, plan, payloads, seen, samples, ceiling, repeat)
    extras.on_samples(measured, seen.samples_in_window(samples, is_open=plan.is_open), seen.opened_ns)
    return measured


def _run(
    client: TritonClient,
    target: Target,
    plan: LoadPlan,
    generators: Generators,
    seen: ObservedRun,
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
        quotas = quotas_of(target.address)
        _read(client, target, seen)  # as late as can be: what the server counts before the window opens is not ours
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


def _read(client: TritonClient, target: Target, seen: ObservedRun) -> None:
    """Read the server's statistics; a server that is gone has none, and the load goes on to say so."""
    begun_ns = time.monotonic_ns()
    try:
        statistics = client.statistics(target.model, target.version)
    except ResxError:
        statistics = []
    ended_ns, cache = time.monotonic_ns(), read_counts(client, seen.cached_models)
    seen.readings.append(StatisticsReading(statistics=statistics, begun_ns=begun_ns, ended_ns=ended_ns, cache=cache))
