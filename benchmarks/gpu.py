"""Prove the GPU line on the machine at hand: train, export, serve, compare and measure, and write down what ran.

    make gpu
    python -m benchmarks.gpu --budget 480 -o build/gpu [--site DIR]

Every step is a command of resx, in a process of its own and bounded by what is left of the budget. `gpu.json` and
`gpu.html` in the output folder say of each step whether it passed, failed, gave figures that may not be used or did
not run, and why; `printed.jsonl` holds all that the commands printed. It needs no network: `--site` names folders with
packages, RESX_CACHE a cache folder that holds the server's wheel. Without a GPU the steps that need one say so, and the
rest passes on the CPU with a small network. Exit code 1 if a step failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import html
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from resx.gpus import find_gpus
from resx.machine import usable_cores
from resx.serving.embedded.devices import missing_for_cuda

Outcome: TypeAlias = Literal["passed", "failed", "invalid", "not run"]
"""Invalid: it ran, and says itself that its figures may not be used, such as those of a client that was late."""
Figures: TypeAlias = dict[str, Any]
Reader: TypeAlias = Callable[[Any], Figures]

EFFICIENCY_AT_32 = 0.85
_LEAST_S = 5.0
"""With less time than that no step begins."""
_PACKAGES = ("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu12", "nvidia-ml-py", "numpy",
             "tritonclient")  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that ran, or did not."""

    name: str
    outcome: Outcome
    why: str = ""
    """Of a step that failed or did not run."""
    took_s: float = 0.0
    command: str = ""
    figures: Figures = dataclasses.field(default_factory=dict)


class Line:
    """Runs the steps, one after the other, within the budget, and writes the report after each."""

    def __init__(self, folder: Path, budget_s: float, site: Sequence[Path], missing: str) -> None:
        """Prepare; `missing` says why no GPU can be used, or nothing."""
        self.steps: list[Step] = []
        self.missing = missing
        self.machine = describe_machine(missing)
        self._lock = threading.Lock()
        paths = [*map(str, site), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = os.environ | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
        self._folder, self._deadline = folder, time.monotonic() + budget_s

    def resx(self, name: str, *arguments: object, gpu: bool = False, read: Reader = lambda _found: {}) -> Step:
        """Run a command of resx with --json; `read` takes its figures out of what it printed."""
        command = [sys.executable, "-P", "-m", "resx", *map(str, arguments), "--json", "-q"]

        def keep_and_read(text: str) -> Figures:
            found = json.loads(text)
            with self._lock, (self._folder / "printed.jsonl").open("a") as kept:
                kept.write(json.dumps({"step": name, "printed": found}) + "\n")
            return read(found)

        return self.run(name, command, gpu=gpu, read=keep_and_read)

    def run(self, name: str, command: Sequence[str], *, gpu: bool, read: Reader) -> Step:
        """Run any command."""
        shown = " ".join(["resx", *command[4:]] if command[1:4] == ["-P", "-m", "resx"] else command)
        begun = time.monotonic()
        left_s = self._deadline - begun
        if gpu and self.missing:
            return self.note(name, "not run", f"no GPU: {self.missing}", command=shown)
        if left_s < _LEAST_S:
            return self.note(name, "not run", "no time was left of the budget", command=shown)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=left_s, check=False, env=self._environment
            )
        except subprocess.TimeoutExpired:
            return self.note(name, "failed", f"not over when the budget was, after {left_s:.0f} s", left_s, shown)
        took_s = time.monotonic() - begun
        if done.returncode == 1 and "bench" in command and done.stdout.startswith("{"):
            why = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
            return self.note(name, "invalid", why, took_s, shown, read(done.stdout))
        if done.returncode:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            why = f"exit code {done.returncode}: {(said or ['it said nothing'])[-1]}"
            figures = {"said": said[-8:]} if len(said) > 1 else {}
            return self.note(name, "not run" if done.returncode == 4 else "failed", why, took_s, shown, figures)
        try:
            return self.note(name, "passed", "", took_s, shown, read(done.stdout))
        except (KeyError, ValueError, IndexError, TypeError, OSError) as error:
            return self.note(name, "failed", f"its output has no {error}", took_s, shown)

    def note(
        self,
        name: str,
        outcome: Outcome,
        why: str = "",
        took_s: float = 0.0,
        command: str = "",
        figures: Mapping[str, Any] | None = None,
    ) -> Step:
        """Add a step to the report, and say it."""
        step = Step(
            name=name, outcome=outcome, why=why, took_s=round(took_s, 1), command=command, figures=dict(figures or {})
        )
        shown = ", ".join(f"{key} {value}" for key, value in step.figures.items() if not isinstance(value, list))
        with self._lock:
            self.steps.append(step)
            print(f"{outcome:<8} {step.took_s:>6.1f} s  {name}  {why or shown}", flush=True)
            write_report(self._folder, self.machine, self.steps)
        return step

    def together(self, steps: Iterable[Callable[[], Step]]) -> list[Step]:
        """Run steps side by side, one for each eight cores; none of them may be timed."""
        with ThreadPoolExecutor(max(1, usable_cores() // 8)) as workers:
            return [future.result() for future in [workers.submit(step) for step in steps]]


def main() -> int:
    """Run the line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds in all")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu"))
    parser.add_argument("--site", type=Path, action="append", default=[], help="a folder with packages; repeatable")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "printed.jsonl").unlink(missing_ok=True)
    sys.path[:0] = map(str, asked.site)
    line = Line(asked.output, asked.budget, asked.site, find_gpus().missing or missing_for_cuda())
    with tempfile.TemporaryDirectory(prefix="resx-gpu-") as folder:
        there = ("--repository", Path(folder) / "model_repository")
        serve_the_first(line, there)
        run = train(line, Path(folder))
        test(line)
        serve_the_rest(line, run, there)
    failed = [step.name for step in line.steps if step.outcome == "failed"]
    print(f"{asked.output / 'gpu.html'}: {count(line.steps)}{f'; failed: {failed}' if failed else ''}")
    return 1 if failed else 0


def serve_the_first(line: Line, there: tuple[object, ...]) -> None:
    """Export, serve and measure the model that has a bar, in both of the server's ways, while the budget is whole."""
    on_gpu = not line.missing
    name, network, *options = ("resnet50_fp16", "resnet50", "--fp16") if on_gpu else ("resnet20_fp32", "resnet20")
    if not export(line, {name: (network, *options)}, there):
        line.note("serve", "not run", "nothing was exported")
    elif (started := serve(line, [name], there)).outcome == "passed":
        try:
            verify(line, [name], started.figures["grpc"], there)
            measure(line, name, there, seconds=4.0 if on_gpu else 1.0, loads="1,8,32,128" if on_gpu else "1,8")
        finally:
            line.resx("stop", "stop", *there)
    if on_gpu:
        serve_natively(line, name, there)
    else:
        line.note("serve --native", "not run", f"no GPU: {line.missing}")


def serve_the_rest(line: Line, run: Path, there: tuple[object, ...]) -> None:
    """Export the other forms, build what can be built, serve all of it together, compare the answers and measure."""
    engines = build_engines(line, there)
    if line.missing:
        return
    forms: dict[str, tuple[object, ...]] = {
        "resnet50_fp32": ("resnet50",),
        "densenet169_fp16": ("densenet169", "--fp16"),
        "resnet110_int8": (run, "--int8", "--calibrate", "digits"),  # int8 of random weights fails its parity
    }
    names = export(line, forms, there) + engines
    if not names or (started := serve(line, names, there)).outcome != "passed":
        return
    url = started.figures["grpc"]
    try:
        verify(line, names, url, there)
        for name in names:
            measure(line, name, there, seconds=3.0, loads="32" if name in engines else "1,32")
        accelerate(line, url, there)
    finally:
        line.resx("stop the others", "stop", *there)


def export(line: Line, forms: Mapping[str, tuple[object, ...]], there: tuple[object, ...]) -> list[str]:
    """Export sources, each with its options, under these names; return what can be served."""

    def export_one(name: str, form: tuple[object, ...]) -> Step:
        target = ("--target", "cpu" if line.missing else "gpu", "--max-batch", 32)
        return line.resx(f"export {name}", "export", *form, "--name", name, *target, *there, read=exported)

    made = line.together(functools.partial(export_one, *one) for one in forms.items())
    return [name for name, step in zip(forms, made, strict=True) if step.outcome == "passed"]


def serve(line: Line, names: Sequence[str], there: tuple[object, ...], *options: str) -> Step:
    """Start a server of these models."""
    ports = ("--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)
    device = ("--device", "cpu" if line.missing else "gpu")
    loads = [f"--load={name}" for name in names]
    return line.resx(
        " ".join(["serve", *options]),
        "serve",
        "--detach",
        *device,
        *options,
        *ports,
        *there,
        *loads,
        read=lambda found: ready(found, names),
    )


def verify(line: Line, names: Sequence[str], url: str, there: tuple[object, ...]) -> None:
    """Compare what a server answers with each model's card and file."""

    def verify_one(name: str) -> Step:
        return line.resx(f"verify {name} as served", "verify", name, "--served", url, *there, read=verified)

    line.together(functools.partial(verify_one, name) for name in names)


def serve_natively(line: Line, name: str, there: tuple[object, ...]) -> None:
    """Serve a model through the backend that computes in the server itself."""
    started = serve(line, [name], there, "--native")
    if started.outcome != "passed":
        return
    try:
        url = started.figures["grpc"]
        line.resx(f"verify {name} as served natively", "verify", name, "--served", url, *there, read=verified)
        measure(line, name, there, seconds=3.0, loads="1,32", how=" natively")
    finally:
        line.resx("stop the native server", "stop", *there)


def build_engines(line: Line, there: tuple[object, ...]) -> list[str]:
    """Build TensorRT plans in fp16 and int8 and an engine of TensorRT for RTX; return what can be served."""
    forms = {f"resnet50_plan_{precision}": ("tensorrt", precision) for precision in ("fp16", "int8")}
    forms["resnet50_rtx_fp16"] = ("tensorrt-rtx", "fp16")
    served = []
    for name, (file_format, precision) in forms.items():
        publish = ("--publish",) if file_format == "tensorrt-rtx" else ()
        step = line.resx(
            f"build {name}",
            "export",
            "resnet50",
            f"--{precision}",
            "--format",
            file_format,
            *publish,
            "--name",
            name,
            "--max-batch",
            32,
            *there,
            gpu=True,
            read=built,
        )
        if step.outcome == "passed" and step.figures["executed"]:
            served.append(name)
        elif step.outcome == "passed":
            line.note(f"serve {name}", "not run", "TensorRT for RTX builds no engine for this GPU")
    return served


def accelerate(line: Line, url: str, there: tuple[object, ...]) -> None:
    """Have TensorRT compute resnet50 inside onnxruntime: the first load builds its engine, the second finds it."""
    name = "resnet50_tensorrt"
    made = line.resx(
        "export resnet50 fp16 for TensorRT inside onnxruntime",
        "export",
        "resnet50",
        "--fp16",
        "--accelerator",
        "tensorrt",
        "--name",
        name,
        "--max-batch",
        32,
        *there,
        gpu=True,
        read=exported,
    )
    if made.outcome != "passed":
        return
    first = line.resx(f"deploy {name}, whose engine is built", "deploy", name, *there, gpu=True)
    if first.outcome != "passed":
        return
    line.resx(f"verify {name} as served", "verify", name, "--served", url, *there, gpu=True, read=verified)
    measure(line, name, there, seconds=4.0, loads="1,32")
    line.resx(f"undeploy {name}", "undeploy", name, *there, gpu=True)
    line.resx(f"deploy {name}, whose engine is kept", "deploy", name, *there, gpu=True)


def measure(line: Line, name: str, there: tuple[object, ...], *, seconds: float, loads: str, how: str = "") -> None:
    """Measure closed loops beside the file in process, and one open loop at two thirds of the best of them."""
    closed = line.resx(
        f"bench {name}{how}, closed",
        "bench",
        name,
        "--concurrency",
        loads,
        "--duration",
        seconds,
        "--warmup",
        1,
        "--in-process",
        "--protocol",
        "grpc",
        *there,
        read=loads_of,
    )
    rates = [load["images_per_s"] for load in closed.figures.get("loads", [])]
    if not rates:
        line.note(f"bench {name}{how}, open", "not run", "the closed loop gave no rate")
        return
    rate = round(max(rates) * 2 / 3, 1)
    line.resx(
        f"bench {name}{how}, open",
        "bench",
        name,
        "--rate",
        rate,
        "--duration",
        seconds,
        "--warmup",
        1,
        "--protocol",
        "grpc",
        *there,
        read=loads_of,
    )
    if name == "resnet50_fp16" and not how:
        share = next(load["efficiency"] for load in closed.figures["loads"] if load["concurrency"] == 32)
        holds, figures = share >= EFFICIENCY_AT_32, {"measured": round(share, 3), "bar": EFFICIENCY_AT_32}
        name = "resnet50 fp16 served over in process at concurrency 32"
        line.note(name, "passed" if holds else "failed", "" if holds else "below its bar", figures=figures)


def train(line: Line, folder: Path) -> Path:
    """Train resnet110 with and without stochastic depth, in all else alike; return the first run's folder.

    What skipped blocks save is measured step by step, in turn: the epochs of two runs differ by more than that.
    """
    command = (
        "train", "resnet110", "--data", "digits", "--epochs", 6, "--batch-size", 64, "--device", "gpu",
        "--precision", "auto", "--channels-last",
    )  # fmt: skip
    runs = {"constant depth": folder / "constant", "stochastic depth": folder / "stochastic"}
    for (kind, run), options in zip(runs.items(), ((), ("--survival", "0.5")), strict=True):
        name, read = f"train resnet110, {kind}", functools.partial(trained, run)
        line.resx(name, *command, *options, "-o", run, gpu=True, read=lambda _found, read=read: read())
    steps = ("--device", "gpu", "--precision", "auto", "--batch-size", "64", "--pairs", "60")
    line.run(
        "stochastic depth's steps in turn with constant depth's",
        [sys.executable, "-m", "benchmarks.stochastic_depth_epoch", *steps],
        gpu=True,
        read=lambda text: {"said": text.strip().splitlines()},
    )
    name, two = "train resnet110 on two GPUs", folder / "two"
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "resx"]
    if not line.missing and find_gpus().count < 2:
        line.note(name, "not run", "one GPU is here: NCCL takes a GPU for each process")
    else:
        line.run(name, [*torchrun, *map(str, command), "-o", str(two)], gpu=True, read=lambda _text: trained(two))
    return runs["constant depth"]


def test(line: Line) -> None:
    """Run the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    line.run("tests that need a GPU", command, gpu=True, read=lambda text: {"said": text.strip().splitlines()[-1]})


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


def describe_machine(missing: str) -> Figures:
    """Return the GPU, its driver and the versions that went together."""
    found = {"python": platform.python_version(), "gpu": missing and f"none that can be used: {missing}"}
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        found["gpu"] = found["gpu"] or subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["gpu"] = found["gpu"] or "nvidia-smi does not answer"
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if importlib.util.find_spec("torch") is not None:
        import torch

        found["CUDA of torch"] = torch.version.cuda or "none"
    return found


def count(steps: Sequence[Step]) -> str:
    """Return how many steps came to what."""
    outcomes = [step.outcome for step in steps]
    kinds: tuple[Outcome, ...] = ("passed", "failed", "invalid", "not run")
    return ", ".join(f"{outcomes.count(kind)} {kind}" for kind in kinds)


def write_report(folder: Path, machine: Figures, steps: Sequence[Step]) -> None:
    """Write gpu.json and gpu.html anew."""
    whole = {"machine": machine, "steps": [dataclasses.asdict(step) for step in steps]}
    (folder / "gpu.json").write_text(json.dumps(whole, indent=2) + "\n")
    rows = "".join(_row(step) for step in steps)
    facts = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(str(value))}</td></tr>" for key, value in machine.items()
    )
    (folder / "gpu.html").write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>resx on a GPU</title><style>{_STYLE}</style>'
        f"<h1>resx on a GPU</h1><p>{count(steps)}</p><table>{facts}</table>"
        "<table><tr><th>Step</th><th>Outcome</th><th>Seconds</th><th>Figures, or why not</th></tr>\n"
        f"{rows}</table></html>\n"
    )


def _row(step: Step) -> str:
    what = f"{html.escape(step.name)}<br><code>{html.escape(step.command)}</code>"
    kind = step.outcome.replace(" ", "-")
    cells = f"<td>{what}</td><td>{step.outcome}</td><td class=n>{step.took_s:.1f}</td><td>{_details(step)}</td>"
    return f'<tr class="{kind}">{cells}</tr>\n'


def _details(step: Step) -> str:
    lines = [html.escape(step.why)] if step.why else []
    for key, value in step.figures.items():
        entries = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        lines += [html.escape(f"{key}: {entry}") for entry in entries]
    return "<br>".join(lines)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: 1rem 0; width: 100% } th, td { text-align: left; padding: .4rem .6rem;
vertical-align: top; border-bottom: 1px solid #ddd } td.n { text-align: right } code { color: #555; font-size: .8rem }
.failed td:nth-child(2), .invalid td:nth-child(2) { color: #b00020; font-weight: 600 }
.passed td:nth-child(2) { color: #136f2c }
.not-run td:nth-child(2) { color: #777 }
"""


if __name__ == "__main__":
    sys.exit(main())
