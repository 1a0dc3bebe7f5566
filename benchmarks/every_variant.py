"""Export every variant by the command that a user types, and print what came of each.

    python benchmarks/every_variant.py --fp16
    python benchmarks/every_variant.py --fp16 --target gpu --only 'resnet*'

Each is exported in a process of its own, into a repository that is deleted. Exit code 1 if one is refused.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from resx.zoo.catalog import VARIANTS


def main() -> int:
    """Export them, one after the other; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of names")
    asked, options = parser.parse_known_args()
    names = [name for name in VARIANTS if fnmatch.fnmatch(name, asked.only)]
    print(f"{'variant':<20} {'exit':>4} {'s':>6} {'max/S':>9} {'mean/S':>9} {'flips':>12}  near tie")
    refused = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="resx-") as folder:
            begun = time.monotonic()
            command = [sys.executable, "-m", "resx", "export", name, *options, "--repository", folder]
            done = subprocess.run([*command, "--force", "--json", "-q"], capture_output=True, text=True, check=False)
            took_s = time.monotonic() - begun
        facts = _facts(json.loads(done.stdout)["steps"][-1]) if done.returncode == 0 else done.stderr.strip()
        print(f"{name:<20} {done.returncode:>4} {took_s:>6.0f} {facts}", flush=True)
        refused += [] if done.returncode == 0 else [name]
    print(f"{len(names) - len(refused)} of {len(names)} exported with {' '.join(options) or 'fp32'}")
    return 1 if refused else 0


def _facts(step: dict[str, Any]) -> str:
    margin = "" if step["near_tie_margin"] is None else f"{step['near_tie_margin']:.1%} of the bound"
    flips = f"{step['num_flips']} of {step['num_images']}"
    return f"{step['max_abs'] / step['scale']:>9.1e} {step['mean_abs'] / step['scale']:>9.1e} {flips:>12}  {margin}"


if __name__ == "__main__":
    sys.exit(main())
