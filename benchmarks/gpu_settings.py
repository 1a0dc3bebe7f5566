"""Compare settings of a published model on a GPU: instances, CUDA graphs, channels last, and any others.

    python -m benchmarks.gpu_settings resnet50_fp16 --repository model_repository
    python -m benchmarks.gpu_settings resnet50_fp16 --only default,two --concurrency 1,32 --seconds 2

Each setting is a copy of the repository with a changed config.pbtxt and a server of its own; all servers start first,
and then each is measured in turn, so that no two loads overlap. The table shows images per second, the median latency
and the share of what the same file gives in process with the same setting. A setting whose server does not start says
why. Needs an NVIDIA GPU; `--device cpu` tries the instances alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NHWC, GRAPHS = "prefer_nhwc", "enable_cuda_graph"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One change of config.pbtxt."""

    instances: int = 1
    cuda: tuple[str, ...] = ()
    """Options of onnxruntime's CUDA provider that are switched on."""

    @property
    def needs_a_gpu(self) -> bool:
        """Whether the CPU cannot try it."""
        return bool(self.cuda)


SETTINGS = {
    "default": Setting(),
    "two": Setting(instances=2),
    "three": Setting(instances=3),
    "nhwc": Setting(cuda=(NHWC,)),
    "two nhwc": Setting(instances=2, cuda=(NHWC,)),
    "graphs": Setting(cuda=(GRAPHS,)),
    "graphs nhwc": Setting(cuda=(GRAPHS, NHWC)),
    "two graphs": Setting(instances=2, cuda=(GRAPHS,)),
    "two graphs nhwc": Setting(instances=2, cuda=(GRAPHS, NHWC)),
}


def main() -> int:
    """Measure the settings that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a published model")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--only", default=",".join(SETTINGS), help=f"settings, of {', '.join(SETTINGS)}")
    parser.add_argument("--concurrency", default="1,32,128")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    asked = parser.parse_args()
    chosen = {name: SETTINGS[name] for name in asked.only.split(",")}
    if asked.device == "cpu":
        chosen = {name: setting for name, setting in chosen.items() if not setting.needs_a_gpu}
    with tempfile.TemporaryDirectory(prefix="resx-settings-") as folder:
        repositories = {name: Path(folder) / name.replace(" ", "_") for name in chosen}
        for name, setting in chosen.items():
            copy(asked.repository, repositories[name], asked.name, setting)
        try:
            with ThreadPoolExecutor(len(chosen)) as workers:
                started = dict(
                    zip(chosen, workers.map(lambda one: serve(one, asked), repositories.values()), strict=True)
                )
            for name, refused in started.items():
                measured = refused or measure(repositories[name], asked)
                print("\n".join(rows(name, measured)), flush=True)
        finally:
            for repository in repositories.values():
                resx("stop", repository)
    return 0


def copy(repository: Path, to: Path, name: str, setting: Setting) -> None:
    """Copy a model into another repository, with the setting in its config.pbtxt."""
    shutil.copytree(repository / name, to / name)
    config = to / name / "config.pbtxt"
    text, found = re.subn(
        r"(?m)^instance_group.*$", f"instance_group {{ count: {setting.instances} }}", config.read_text()
    )
    if found != 1:
        raise SystemExit(f"error: {config}: no line `instance_group`; export the model anew")
    options = " ".join(f'parameters {{ key: "{key}" value: "1" }}' for key in setting.cuda)
    if options:
        text += (
            f'optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ name: "cuda" {options} }} }} }}\n'
        )
    config.write_text(text)


def serve(repository: Path, asked: argparse.Namespace) -> str:
    """Start a server; return why it did not start, or nothing."""
    ports = ("--http-port", 0, "--grpc-port", 0, "--metrics-port", 0)
    done = resx("serve", repository, "--detach", "--device", asked.device, "--load", asked.name, *ports)
    return done.stderr.strip() if done.returncode else ""


def measure(repository: Path, asked: argparse.Namespace) -> str | list[dict[str, Any]]:
    """Return what `resx bench` measured of each load, or why it did not."""
    options = ("--concurrency", asked.concurrency, "--duration", asked.seconds, "--warmup", 1)
    done = resx("bench", repository, asked.name, *options, "--in-process", "--protocol", "grpc")
    if done.returncode not in (0, 1) or "measurements" not in done.stdout:
        return (done.stderr or done.stdout).strip()
    measured: list[dict[str, Any]] = json.loads(done.stdout)["measurements"]
    return measured


def rows(name: str, measured: str | list[dict[str, Any]]) -> list[str]:
    """Return a table's lines of a setting."""
    if isinstance(measured, str):
        return [f"{name:<16} {measured.splitlines()[-1]}"]
    return [
        f"{name:<16} concurrency {load['concurrency']:>4}  {load['images_per_s']:>8.1f} images/s  p50 "
        f"{load['p50_ms']:>7.2f} ms  p99 {load['p99_ms'] or float('nan'):>7.2f} ms  in process "
        f"{load['in_process']['images_per_s']:>8.1f}/s  efficiency {load['in_process']['efficiency']:.2f}"
        f"{'  invalid' if load['invalid'] else ''}"
        for load in measured
    ]


def resx(command: str, repository: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of resx with --json."""
    line = [sys.executable, "-P", "-m", "resx", command, *map(str, arguments), "--repository", str(repository)]
    return subprocess.run([*line, "--json", "-q"], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
