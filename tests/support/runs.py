"""What tests do with a training run: end it early, compare its figures."""

from __future__ import annotations

import json
from pathlib import Path

from resx.training.runs import checkpoint
from resx.training.runs.checkpoint import Metrics


def stop_after(epoch: int):
    def on_epoch(entry: Metrics) -> None:
        if entry["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch


def metrics_of(folder: Path) -> list[Metrics]:
    """The lines of metrics.jsonl without their timings, which differ from run to run."""
    lines = [json.loads(line) for line in (folder / checkpoint.METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in lines]
