"""Did the server compute what it answered, or take it from its response cache?

A load sends a few requests in turn, so with the cache on nearly all of them are hits, and the figures are those of a
hash table. Triton counts hits and misses per model, of an ensemble's members too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from resx.errors import ResxError
from resx.serving.client.client import TritonClient

MOST_CACHED = 0.01
"""The share of hits that may stay. Hits take almost no time, so a share of 1 % raises throughput by 1 % at most and
makes the p99 of what was computed a p98.99: less than two runs of the same load differ by."""
Counts: TypeAlias = Mapping[str, tuple[int, int]]
"""Hits and lookups by model."""


def models_with_cache(client: TritonClient, model: str) -> tuple[str, ...]:
    """Return the models whose response cache can answer for `model`: itself, or members of the ensemble that it is."""
    waiting, seen, found = [model], set[str](), list[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            config = client.config(name)
        except ResxError:  # the load itself says what is wrong with it
            continue
        if config.get("response_cache", {}).get("enable"):
            found.append(name)
        waiting += [str(step.get("model_name")) for step in config.get("ensemble_scheduling", {}).get("step", [])]
    return tuple(found)


def read_counts(client: TritonClient, models: tuple[str, ...]) -> Counts | None:
    """Return what the models' caches have been asked so far; None where the server does not say."""
    try:
        return {model: _counts(client.statistics(model)) for model in models}
    except ResxError:
        return None


def _counts(statistics: list[dict[str, Any]]) -> tuple[int, int]:
    hits, misses = (
        sum(int(version["inference_stats"].get(what, {}).get("count", 0)) for version in statistics)
        for what in ("cache_hit", "cache_miss")
    )
    return hits, hits + misses


def cached_share(before: Counts | None, after: Counts | None) -> float | None:
    """Return the share of hits between two readings, of the model with the largest; None where it is not known."""
    if before is None or after is None:
        return None
    differences = [(after[model][0] - hits, after[model][1] - lookups) for model, (hits, lookups) in before.items()]
    return max((hits / lookups for hits, lookups in differences if lookups > 0), default=0.0)


def why_unusable(share: float | None) -> str:
    """Return why figures with this share of hits are not the model's; empty: they are, as far as is known."""
    if share is None or share <= MOST_CACHED:
        return ""
    return (
        f"the response cache answered {share:.1%} of the requests, so these are not the model's figures; export it "
        "without --response-cache to measure it"
    )
