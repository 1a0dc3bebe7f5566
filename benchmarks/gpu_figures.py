"""The figures that `benchmarks.gpu` takes out of what commands of resx print with --json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_report import Figures


def exported(found: Mapping[str, Any]) -> Figures:
    """Return what an export says of its parity."""
    on_gpu = found.get("gpu_parity") or {}
    compared = [*found.get("steps", []), *filter(None, (on_gpu.get("tf32_off"), on_gpu.get("tf32_on")))]
    steps = {step["step"]: f"{step['max_abs'] / step['scale']:.1e}" for step in compared}
    return {"verified": found["verified"], "max_over_scale": steps}


def built(found: Mapping[str, Any]) -> Figures:
    """Return that of an engine, with what its layers compute in."""
    engine = found["engine"]
    return exported(found) | {
        "executed": engine["executed"],
        "layers": engine["engine_precisions"] or engine["network_precisions"],
        "layers_in_a_wider_precision": engine["num_wider"],
    }


def ready(found: Mapping[str, Any], wanted: Sequence[str]) -> Figures:
    """Return where the server listens; a model that was asked for and did not load is an error."""
    if missing := sorted({*wanted} - {*found["models"]}):
        raise ValueError(f"model {missing[0]}, which was to be loaded")
    return {"grpc": found["grpc"], "models": sorted(found["models"])}


def verified(found: Mapping[str, Any]) -> Figures:
    """Return what was compared with the server's answers."""
    return {"checks": [check["what"] + ": " + check["detail"] for check in found["checks"] if not check["skipped"]]}


def loads_of(found: Mapping[str, Any]) -> Figures:
    """Return the throughput and latency of each load."""
    loads = [
        {
            "concurrency": one["concurrency"],
            "rate_per_s": one["rate_per_s"],
            "images_per_s": round(one["images_per_s"], 1),
            "p50_ms": one["p50_ms"],
            "p99_ms": one["p99_ms"],
            "failed": one["failed"],
            "invalid": one["invalid"],
            "efficiency": one["in_process"] and round(one["in_process"]["efficiency"], 3),
            "gpus": one["gpus"],
        }
        for one in found["measurements"]
    ]
    return {"loads": loads, "images_per_s": [load["images_per_s"] for load in loads]}


def trained(run: Path) -> Figures:
    """Return the median rate of a run's epochs, but for the first, which warms up, and what computed them."""
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = sorted(epoch["images_per_s"] for epoch in epochs[1:])
    how = {key: epochs[-1][key] for key in ("accuracy", "device", "precision", "num_processes")}
    layout = "last" if json.loads((run / "training.json").read_text())["channels_last"] else "first"
    return {"images_per_s": rates[len(rates) // 2], **how, "channels": layout}
