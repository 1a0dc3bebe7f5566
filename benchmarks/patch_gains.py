"""What a patch of the embedded server gives: resx's server beside the same one without it.

    python -m benchmarks.patch_gains socket_reads [--image-size 224] [--rounds 5] [--seconds 3]
    python -m benchmarks.patch_gains idle_instances --model resnet20
    python -m benchmarks.patch_gains socket_reads --model resnet50 --export=--runtime=openvino --export=--bf16

The second server is a copy of the first with that patch (`resx/serving/embedded/patches/`) taken back, and nothing
else. Both serve the same file, by default the mean color of an image, which leaves the server's own work; each round
measures both in turn. Ratios are those with the patch over those without it, round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resx.serving.embedded.installation.triton_installation import install
from resx.serving.embedded.patches import batcher, idle_instances, socket_reads
from resx.serving.embedded.patches.binary_edits import Edit, rewrite

MEAN_COLOR = "benchmarks.patch_gains:mean_color"
PATCHES = {
    "socket_reads": ("bin/tritonserver", socket_reads.EDITS),
    "idle_instances": (f"libs/{batcher.LIBRARY}", idle_instances.EDITS),
}
"""The file that each changes, and how."""


class _MeanColor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


def mean_color() -> nn.Module:
    """Return a classifier of images of any size that costs next to nothing."""
    torch.manual_seed(0)
    return _MeanColor()


def main() -> int:
    """Serve one file twice, measure both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patch", choices=sorted(PATCHES))
    parser.add_argument("--model", default=MEAN_COLOR)
    parser.add_argument("--export", action="append", default=[], help="an option of resx export; repeatable")
    parser.add_argument("--image-size", type=int, default=224, help="of the mean color")
    parser.add_argument("--serve", action="append", default=[], help="an option of resx serve; repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    sized = ["--image-size", str(asked.image_size)] if asked.model == MEAN_COLOR else []
    with tempfile.TemporaryDirectory(prefix="resx-patch-") as folder:
        caches = {"old": copy_without(asked.patch, Path(folder) / "cache"), "new": None}
        repositories = {which: Path(folder) / which for which in caches}
        run("export", asked.model, *sized, *asked.export, "--name=m", "--max-batch=8", f"--repository={folder}/new")
        shutil.copytree(repositories["new"], repositories["old"])
        ports = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
        try:
            for which, cache in caches.items():
                run("serve", "--detach", *ports, *asked.serve, f"--repository={repositories[which]}", cache=cache)
            print("\n".join(table([measure(repositories, asked.seconds, turn) for turn in range(asked.rounds)])))
        finally:
            for repository in repositories.values():
                run("stop", f"--repository={repository}")
    return 0


def copy_without(patch: str, cache: Path) -> Path:
    """Copy the installed server into another cache folder, without this patch; return that folder."""
    root = install().server.parent.parent
    copied = cache / root.parent.name / root.name
    shutil.copytree(root, copied, symlinks=True)
    file, edits = PATCHES[patch]
    rewrite(copied / file, [Edit(at, after, before) for at, before, after in edits])
    return cache


def measure(repositories: dict[str, Path], seconds: float, turn: int) -> dict[str, list[dict[str, Any]]]:
    """Return the measurements of both servers, in an order that changes from round to round."""
    found = {}
    for which in sorted(repositories, reverse=bool(turn % 2)):
        options = ("--concurrency=1,8", f"--duration={seconds}", "--warmup=1", "--no-check")
        found[which] = run("bench", "m", *options, f"--repository={repositories[which]}")["measurements"]
    return found


def table(rounds: list[dict[str, list[dict[str, Any]]]]) -> list[str]:
    """Return the medians of both and the ratios, with their range over the rounds."""
    lines = []
    for place, key, unit in (
        (0, "p50_ms", "one request, p50 ms"),
        (1, "images_per_s", "eight in flight, images/s"),
    ):
        old, new = ([one[which][place][key] for one in rounds] for which in ("old", "new"))
        ratios = [after / before for before, after in zip(old, new, strict=True)]
        lines.append(
            f"{unit}: {statistics.median(old):.3f} to {statistics.median(new):.3f}, ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return lines


def run(*arguments: str, cache: Path | None = None) -> Any:
    """Run a command of resx and return its JSON."""
    environment = os.environ | ({"RESX_CACHE": str(cache)} if cache else {})
    command = [sys.executable, "-P", "-m", "resx", *arguments, "--json", "-q"]
    here = {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment | here)
    if not done.stdout.startswith("{") or done.returncode not in (0, 1):
        raise SystemExit(f"resx {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
