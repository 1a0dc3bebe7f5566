"""Whether a benchmark's figures may be used, and meet what was asked of them."""

from __future__ import annotations

from resx.bench.comparing import regressions
from resx.bench.results.response_cache import why_unusable
from resx.bench.results.result import BenchResult
from resx.errors import ObjectiveMissed, ParityError, ResxError


def judge(result: BenchResult, old: BenchResult | None = None, share: float = 0.0) -> None:
    """Raise what a result ends with: nothing where its figures may be used and meet what was asked.

    Args:
        result: of a benchmark.
        old: the baseline that it is held to; None: none.
        share: by which a figure may be worse than the baseline's.

    Raises:
        KeyboardInterrupt: it was interrupted; what there was has been printed.
        ParityError: answers are wrong.
        ObjectiveMissed: something is worse than the baseline, or no rate holds --slo.
        ResxError: requests failed, or the figures must not be used.
    """
    measurements = result.measurements
    if any("Ctrl-C" in reason for measured in measurements for reason in measured.invalid):
        raise KeyboardInterrupt
    wrong = [measured for measured in measurements if measured.answers.wrong]
    if wrong:
        raise ParityError(
            f"{wrong[0].target}: {wrong[0].invalid[0]}; `resx verify {wrong[0].model} --url {wrong[0].url}` shows "
            "details"
        )
    if cached := next(filter(None, (why_unusable(measured.cached_share) for measured in measurements)), ""):
        raise ResxError(f"INVALID: {cached}")
    if result.slo:  # a search goes beyond what client and server can do, on purpose
        _judge_search(result)
        return
    failed = sum(measured.failed for measured in measurements)
    if failed:
        sent = sum(measured.sent for measured in measurements)
        reason = next(message for measured in measurements for message in measured.errors)
        raise ResxError(f"{failed} of {sent} requests failed: {reason}")
    invalid = [measured for measured in measurements if measured.invalid]
    if invalid:
        raise ResxError(f"INVALID at {invalid[0].title}: {invalid[0].invalid[0]}")
    if old is not None:
        worse = regressions(result, old, share)
        if worse:
            raise ObjectiveMissed(f"worse than the baseline by more than {share:.0%}: {'; '.join(worse)}")


def _judge_search(result: BenchResult) -> None:
    """Raise ObjectiveMissed if no rate was found that holds the objective, with the reason."""
    assert result.slo is not None
    if result.slo["rate_per_s"] is not None:
        return
    raise ObjectiveMissed(f"--slo {result.slo['asked']}: no rate meets it; {result.slo['why']}")
