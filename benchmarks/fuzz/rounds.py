"""The cases of one target, one after the other, in a process that has imported everything."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import hypothesis
from benchmarks.fuzz import isolated, targets
from benchmarks.fuzz.sound import Sound
from hypothesis import HealthCheck, Phase, settings

CASES_IN_A_ROUND = 20


def fuzz(
    name: str, start: Sound, scratch: Path, seed: int, seconds: float, most: int, keep: Path
) -> tuple[str, int, int]:
    """Run one target for so many seconds or cases; return a line of the table, and the numbers of faults and cases."""
    _import_everything()
    codes: Counter[int] = Counter()
    faults: dict[str, isolated.Case] = {}
    peak_bytes = 0
    until = time.monotonic() + seconds
    round_ = 0
    while (time.monotonic() < until and codes.total() < most) or not codes:
        for case in draw(name, start, seed=seed + 1000 * round_, number=min(most, CASES_IN_A_ROUND)):
            outcome = isolated.run(case, start.folder, scratch)
            codes[outcome.exit_code] += 1
            peak_bytes = max(peak_bytes, outcome.peak_bytes)
            for fault in outcome.faults:
                if fault not in faults:
                    faults[fault] = case
                    keep_case(keep / f"{name}-{len(faults)}", case, fault, outcome.text)
            if time.monotonic() > until:
                break
        round_ += 1
    words = "; ".join(faults) or "none"
    cases = codes.total()
    line = f"{name:<16} {cases:>6} {codes[0]:>6} {cases - codes[0]:>8} {peak_bytes / 1e6:>8.0f}  {words}"
    return line, len(faults), cases


def draw(name: str, start: Sound, *, seed: int, number: int) -> list[isolated.Case]:
    """Return cases of a target, the same for the same seed."""
    cases: list[isolated.Case] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(targets.TARGETS[name](start))
    def collect(case: isolated.Case) -> None:
        cases.append(case)

    collect()
    return cases


def _import_everything() -> None:
    """Import what commands import on first use, so that a forked case need not; nothing may start a thread."""
    import numpy.random
    import onnx
    import onnxruntime
    import PIL.Image
    import pyarrow.parquet
    import torch
    import torchvision

    from resx.cli import main as commands
    from resx.export import pipeline
    from resx.scoring import in_process
    from resx.training import loop

    assert all((numpy, onnx, onnxruntime, PIL, pyarrow, torch, torchvision, commands, pipeline, in_process, loop))
    torch.set_num_threads(1)


def keep_case(folder: Path, case: isolated.Case, fault: str, text: str) -> None:
    """Write a case's files, its command and what it said."""
    answers = {f"answer{path.replace('/', '-')}": content for path, content in (case.answers or {}).items()}
    for name, content in {**case.files, **answers}.items():
        target = folder / "files" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    told = {"fault": fault, "arguments": case.arguments, "said": text[-4000:]}
    (folder / "case.json").write_text(json.dumps(told, indent=2) + "\n")
