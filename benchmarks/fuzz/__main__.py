"""Spoil everything that resx reads, at random, and see that nothing but one line comes of it.

    python -m benchmarks.fuzz                       20 minutes, every target
    python -m benchmarks.fuzz --only cards --minutes 2 --seed 7

Each case is a whole command in a process of its own. Faults are: a traceback, a signal, a hang, more than 2 GB of
memory, a file outside the working folder, anything run or imported that the file named, a control character on the
terminal, a failure without its one line. The files of each are kept; the same seed and rounds give the same cases.
Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: threads do not live through a fork

from benchmarks.fuzz import sound, targets
from benchmarks.fuzz.rounds import fuzz


def main() -> int:
    """Run the targets, two at a time, print what came of each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of all targets together")
    parser.add_argument("--cases", type=int, default=10**9, help="of a target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(targets.TARGETS), default=list(targets.TARGETS))
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where the files of a fault go")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="resx-fuzz-") as scratch:
        made = Path(scratch) / "sound"
        made.mkdir()
        wanted = set(asked.only)
        start = sound.prepare(
            made, server=bool(wanted & targets.NEED_A_SERVER), trained=bool(wanted & targets.NEED_A_RUN)
        )
        share_s = 60 * asked.minutes * asked.processes / len(wanted)
        jobs = [(name, start, Path(scratch), asked.seed, share_s, asked.cases, asked.keep) for name in asked.only]
        print(f"{'target':<16} {'cases':>6} {'done':>6} {'refused':>8} {'peak MB':>8}  faults")
        # Not multiprocessing.Pool: its workers may have no children, which `resx bench` has.
        with ProcessPoolExecutor(
            asked.processes, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as pool:
            results = [pool.submit(fuzz, *job) for job in jobs]
            num_faults = num_cases = 0
            for result in results:
                line, faults, cases = result.result()
                print(line, flush=True)
                num_faults, num_cases = num_faults + faults, num_cases + cases
    print(f"{num_cases} cases, {num_faults} faults, seed {asked.seed}, {(time.monotonic() - begun) / 60:.0f} min")
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
