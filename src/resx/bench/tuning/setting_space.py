"""The settings that a search tries: instances and threads that fit on the cores, then batches and delays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resx.card.tuning import Setting
from resx.serving.deployment.tuned_configuration import FileKey
from resx.serving.embedded.backends.config_values import SPIN_US

DELAYS_US = (0, 200, 1000)
_DELAY_SHARE = 0.2
"""Of a single request's time: the longest delay that is tried, where that is more than the others."""
SPINS_US = (0, SPIN_US // 2, SPIN_US)
"""How long threads that run out of work may wait busily. Without a bound they take cores from whatever else runs."""


def thread_settings(before: Setting, files: Iterable[FileKey], cores: int, *, on_cpu: bool) -> list[Setting]:
    """Return instances and threads that fit on the cores, with and without spinning, for each file.

    OpenVINO's threads have no such setting.
    """
    shapes: list[tuple[int, int, int]] = []
    if on_cpu:
        instances = 1
        while instances <= cores:
            for threads in sorted({cores // instances, max(1, cores // instances // 2)}, reverse=True):
                shapes += [(instances, threads, spin_us) for spin_us in (SPINS_US if threads > 1 else (0,))]
            instances *= 2
    else:
        shapes = [(instances, 0, 0) for instances in (1, 2, 3, 4)]
    found = [
        before.model_copy(
            update={
                "version": version,
                "runtime": runtime,
                "precision": precision,
                "instances": count,
                "threads": threads,
                "spinning": spin_us > 0,
                "spin_us": spin_us,
            }
        )
        for version, runtime, precision in files
        for count, threads, spin_us in shapes
        if runtime != "openvino" or not spin_us
    ]
    return list(dict.fromkeys([before, *found]))


def delays_us(single_ms: float | None) -> tuple[int, ...]:
    """Return the delays to try for a model whose request takes so long alone.

    Answers come in batches, and so do the requests that follow them, over a time that grows with the model's. Two
    instances of resnet50 that may join 4 of 8 requests ran batches of 2.5 to 2.7 images with a delay of 0 or 1 ms, and
    of 3.9 to 4.0 with 8 ms (mean batch of `resx bench --concurrency 8`).
    """
    longest = round(_DELAY_SHARE * (single_ms or 0.0)) * 1000
    return DELAYS_US if longest <= DELAYS_US[-1] else (DELAYS_US[0], DELAYS_US[-1], longest)


def batch_settings(
    before: Setting, best: Setting, largest: int, least: int, delays: Sequence[int] = DELAYS_US
) -> list[Setting]:
    """Return the best setting with other batches and delays; batches of `least` images must remain possible.

    The least of all is among them: where a batch costs what its images cost one by one, as small networks do on a
    processor, joining requests gives no throughput, and the tail of all that are joined.
    """
    if not best.max_batch:
        return list(dict.fromkeys([before, best]))
    sizes = sorted({size for size in (largest, largest // 2, largest // 4) if size >= max(1, least)}, reverse=True)
    joined = [(size, delay) for size in sizes for delay in delays] + [(max(1, least), 0)]
    found = [best.model_copy(update={"max_batch": size, "delay_us": delay}) for size, delay in joined]
    return list(dict.fromkeys([before, best, *found]))
