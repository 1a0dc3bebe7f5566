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
import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu_figures import built, exported, loads_of, ready, trained, verified
from benchmarks.gpu_line import Line
from benchmarks.gpu_report import Step, count

from resx.gpus import find_gpus
from resx.serving.embedded.devices import missing_for_cuda

EFFICIENCY_AT_32 = 0.85


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


if __name__ == "__main__":
    sys.exit(main())
