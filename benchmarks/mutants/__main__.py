"""Plant every fault of the table, one at a time, and see that the tests named beside it fail.

    python -m benchmarks.mutants                    all of them, two at a time, in under an hour
    python -m benchmarks.mutants --only latency     those whose room, name, lines, file or tests hold the word
    python -m benchmarks.mutants --minutes 20       begin no more after that

The tests of a row are first run without the fault: once for each selection, and not again until something that they
depend on has changed. Then each fault is planted in a copy of the repository's files. build/mutants/result.json holds
what came of each. Exit code 1 if less than 95 % are caught, 2 if a row no longer fits the code.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from benchmarks.mutants.fault_table import BadRow, Fault, read_faults
from benchmarks.mutants.trials import SOUND_LIMIT_S, Bench, Outcome, copy_repository

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "mutants"
LEAST_CAUGHT = 0.95


def main() -> int:
    """Run the rows that are asked for, print what came of each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORD", nargs="+", default=[""], help="rows that hold one of these words")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no other row after that")
    asked = parser.parse_args()
    try:
        faults = [fault for fault in read_faults(ROOT) if any(word in str(fault) for word in asked.only)]
    except BadRow as error:
        print(error, file=sys.stderr)
        return 2
    outcomes = run_rows(faults, asked.jobs, time.monotonic() + 60 * asked.minutes)
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = [asdict(fault) | asdict(outcomes[fault.name]) for fault in faults if fault.name in outcomes]
    (RESULTS / "result.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summarize(faults, outcomes)


def run_rows(faults: list[Fault], jobs: int, until: float) -> dict[str, Outcome]:
    """Try every fault, those of one selection of tests one after another, and print each as it ends."""
    selections: dict[tuple[str, ...], list[Fault]] = defaultdict(list)
    for fault in faults:
        selections[fault.tests].append(fault)
    sound = SoundTests()
    benches: queue.SimpleQueue[Bench] = queue.SimpleQueue()
    outcomes: dict[str, Outcome] = {}
    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="resx-mutants-") as scratch, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            benches.put(copy_repository(ROOT, Path(scratch) / str(number)))

        def work(tests: tuple[str, ...]) -> None:
            bench = benches.get()
            try:
                for fault in selections[tests]:
                    if time.monotonic() < until and not stopped.is_set():
                        outcomes[fault.name] = outcome = sound.try_fault(bench, fault)
                        print(f"{outcome.verdict:<11} {outcome.seconds:6.1f} s  {fault.room}: {fault.name}", flush=True)
                        if outcome.verdict != "caught":
                            print(f"{'':<22}{outcome.said}", flush=True)
            finally:
                benches.put(bench)

        try:
            for done in as_completed([pool.submit(work, tests) for tests in selections]):
                done.result()
        finally:  # Ctrl-C waits for the rows that are under way
            stopped.set()
    return outcomes


class SoundTests:
    """Which selections of tests pass without a fault, and how long that takes; kept in build/mutants/sound.json."""

    def __init__(self) -> None:
        self._file = RESULTS / "sound.json"
        self._seconds: dict[str, float] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._failing: dict[str, Outcome] = {}

    def try_fault(self, bench: Bench, fault: Fault) -> Outcome:
        """Run the fault's tests without it unless that is known, then with it."""
        key = bench.fingerprint(fault.tests)
        if key not in self._seconds and key not in self._failing:
            plain = bench.run(fault.tests, SOUND_LIMIT_S)
            if plain.verdict == "not caught":
                self._seconds[key] = plain.seconds
                RESULTS.mkdir(parents=True, exist_ok=True)
                self._file.write_text(json.dumps(self._seconds, indent=1) + "\n")
            else:
                self._failing[key] = Outcome(verdict="no sound tests", seconds=plain.seconds, said=plain.said)
        if key in self._failing:
            return self._failing[key]
        with bench.planted(fault):
            return bench.run(fault.tests, 60 + 10 * self._seconds[key])


def summarize(faults: list[Fault], outcomes: dict[str, Outcome]) -> int:
    """Print what was not caught, a line for each room and the total, and return the exit code."""
    print()
    for fault in faults:
        if fault.name in outcomes and (outcome := outcomes[fault.name]).verdict != "caught":
            print(f"{fault.room}: {fault.name}: {outcome.verdict}\n    {fault.promise}\n    {outcome.said}")
    print(f"\n{'room':<12} {'faults':>6} {'caught':>7}")
    for room in sorted({fault.room for fault in faults}):
        of_room = [fault.name for fault in faults if fault.room == room]
        caught = sum(name in outcomes and outcomes[name].verdict == "caught" for name in of_room)
        print(f"{room:<12} {len(of_room):>6} {caught:>7}")
    counts = Counter(outcome.verdict for outcome in outcomes.values())
    not_run = len(faults) - len(outcomes)
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.most_common()) + f"; {not_run} not run")
    return 0 if outcomes and counts["caught"] >= LEAST_CAUGHT * len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
