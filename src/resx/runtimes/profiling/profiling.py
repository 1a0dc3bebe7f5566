"""Make a model's profile of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from resx.card.runtime import RuntimeName
from resx.machine import instruction_set, processor
from resx.runtimes.profiling import machine_peak
from resx.runtimes.profiling.counters import ComputedIn, Counts
from resx.runtimes.profiling.layer_times import blocks_of, layers_of, sum_up
from resx.runtimes.profiling.measuring import ProfileOptions, Subject, measure
from resx.runtimes.profiling.profile import Bandwidth, Layer, Peak, Profile
from resx.runtimes.profiling.source_graph import SourceGraph

_QUIET = 1.25
"""Times the fastest run: what the median takes at most where nobody else computes."""


def profile_model(
    subject: Subject, options: ProfileOptions, *, on_round: Callable[[int, int], None] = lambda _done, _of: None
) -> Profile:
    """Measure a model (`measure`) and join its counters to its layers."""
    measured = measure(subject, options, on_round=on_round)
    peaks = _peaks(measured.gemms)
    layers = layers_of(measured.counts, subject.source, {one.computed_in: 1e3 * one.gflops for one in peaks})
    run_ms, best_ms = statistics.median(measured.runs_ms), min(measured.runs_ms)
    whole = sum_up(layers, 1e3 * best_ms)
    return Profile(
        subject=subject.name,
        runtime=options.runtime,
        runtime_version=_version(options.runtime),
        precision_hint=options.precision_hint if options.runtime == "openvino" else None,
        processor=processor(),
        instruction_set=instruction_set(),
        threads=options.num_threads,
        batch=options.batch,
        num_runs=len(measured.runs_ms),
        run_ms=run_ms,
        best_ms=best_ms,
        images_per_s=1e3 * options.batch / run_ms,
        total=whole,
        counted_us=sum(layer.time_us for layer in layers),
        unattributed_us=sum(layer.time_us for layer in layers if not layer.name),
        peaks=peaks,
        bandwidth=_bandwidth(measured.stream),
        layers=layers,
        blocks=blocks_of(layers),
        notes=(*_notes(subject.source, layers, options), *_busy(run_ms, best_ms, whole.peak_share)),
    )


def _peaks(gemms: Sequence[tuple[int, Counts]]) -> tuple[Peak, ...]:
    """Return the fastest product in each precision, by the counter of the product alone."""
    best: dict[ComputedIn, Peak] = {}
    for size, counts in gemms:
        place = int(np.argmax(counts.times_us.sum(axis=0)))
        computed_in = counts.nodes[place].computed_in
        gflops = float(2e-3 * size**3 / counts.times_us[:, place].min())
        if computed_in not in best or best[computed_in].gflops < gflops:
            name = f"MatMul {size} x {size} x {size}"
            best[computed_in] = Peak(computed_in=computed_in, gflops=gflops, measured_by=name)
    return tuple(best.values())


def _bandwidth(stream: Counts | None) -> Bandwidth:
    """Return the fastest run of what only moves memory, by the counter of that alone."""
    assert stream is not None
    place = int(np.argmax(stream.times_us.sum(axis=0)))
    node, fastest_us = stream.nodes[place], float(stream.times_us[:, place].min())
    return Bandwidth(
        gb_per_s=1e-3 * (node.bytes_read + node.bytes_written) / fastest_us, measured_by=machine_peak.STREAM_NAME
    )


def _version(runtime: RuntimeName) -> str:
    if runtime == "openvino":
        from resx.runtimes.openvino_package import openvino_version

        return openvino_version()
    from resx.runtimes.onnxruntime_model import onnxruntime_version

    return onnxruntime_version()


def _notes(source: SourceGraph, layers: Sequence[Layer], options: ProfileOptions) -> tuple[str, ...]:
    """Return what a reader has to know of the figures."""
    notes = []
    unknown = [node.name for node in source.nodes if node.macs is None]
    if unknown:
        notes.append(f"arithmetic of {len(unknown)} layers is not known, as their shapes are not: {unknown[0]}, ...")
    if source.stores_fp16 and not any(layer.computed_in == "fp16" and layer.macs for layer in layers):
        computed = " and ".join(sorted({layer.computed_in for layer in layers if layer.macs}))
        notes.append(f"the file holds fp16, which {options.runtime} computes in {computed or 'fp32'} on this processor")
    if source.has_integers and not any(layer.computed_in == "int8" and layer.macs for layer in layers):
        notes.append(f"the file is int8, and {options.runtime} computes no layer in int8")
    return tuple(notes)


def _busy(run_ms: float, best_ms: float, peak_share: float | None) -> tuple[str, ...]:
    found = []
    if run_ms > _QUIET * best_ms:
        found.append(f"the median run took {run_ms / best_ms:.1f} times the fastest")
    if peak_share is not None and peak_share > 1:
        found.append("the model was faster than the matrix product")
    return (f"others used the processor: {'; '.join(found)}: repeat this on a quiet machine",) if found else ()
