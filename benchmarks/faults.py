"""Break a served model on purpose, under load, and count what its clients notice.

    python -m benchmarks.faults [--times 20] [--only NAME ...] [--native] [--runtime openvino]

A tiny network is served by the embedded Triton. Clients over http and grpc ask it all the time, one request
after the other, and compare every answer with what the same file answers in process. Half of them give up at
the first error (that is a lost request), half use the client's retries. A function per fault returns its rows;
`FAULTS` names them, and a new one is a function more. Exit code 1 if a bar is missed.

The faults of versions and commands are in fault_deploys.py and fault_commands.py, of other models in
fault_neighbours.py, of folders and of the response cache in fault_outages.py, of requests in fault_requests.py, of
load and memory in fault_strain.py, of a proxy in fault_proxy.py.

Bars: no wrong answer, ever. A dead process: noticed within 2 s, serving again within 10 s, requests lost only
in between, none lost by clients that retry. SIGTERM, SIGHUP: every accepted request answered, nothing left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from benchmarks import (
    fault_commands,
    fault_deploys,
    fault_neighbours,
    fault_outages,
    fault_proxy,
    fault_requests,
    fault_strain,
)
from benchmarks.fault_clients import (
    COMPUTED_BY,
    HEADER,
    RECOVER_S,
    SERVED_WITH,
    Asker,
    Event,
    Row,
    line,
    load,
    published,
    serve,
)
from tests.support.running_triton import current, stub_of, wait_until
from tests.support.small_disk import small_disk

from resx.card.runtime import RUNTIMES
from resx.repository.versions import Repository
from resx.serving.client.server_errors import ConnectionLost, NotLoaded
from resx.serving.running.server_state import Recovery, ServerState, now_s, running_server

RETRIES = 8
DETECT_S, EXIT_S = 2.0, 20.0


def kill(
    victim: str,
    number: signal.Signals,
    times: int,
    full_disk: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    what: str = "",
) -> list[Row]:
    """Send a signal to tritonserver, or to the model's stub, again and again; one row without and one with retries.

    Args:
        victim: "tritonserver" or "stub".
        number: the signal.
        times: how often.
        full_disk: what lasts from before the signal until every client was answered again.
        what: that is, for the rows.
    """
    injected: list[float] = []
    recoveries: list[Recovery] = []
    with published() as (repository, questions):
        state = serve(repository)
        with load(state, questions, (0, RETRIES)) as askers:
            for _ in range(times):
                time.sleep(1.2)
                state = current(repository)
                pid = state.server_pid if victim == "tritonserver" else stub_of(state)
                with full_disk():
                    injected.append(now_s())
                    os.kill(pid, number)
                    if full_disk is not contextlib.nullcontext:  # nothing tells of it but the answers
                        _wait_for_answers(askers, injected[-1])
                recoveries.append(_recovery(repository, state.restarts))
                _wait_for_answers(askers, recoveries[-1].serving_s)
    detected = tuple(recovery.detected_s - at for recovery, at in zip(recoveries, injected, strict=True))
    name = f"{number.name} of {victim}{what}"
    return [
        _kill_row(name, [asker for asker in askers if not asker.retries], injected, detected),
        _kill_row(f"{name}, --retries {RETRIES}", [asker for asker in askers if asker.retries], injected, detected),
    ]


def _wait_for_answers(askers: Sequence[Asker], since_s: float) -> None:
    """Wait until every client was given an answer to a request that it sent after then."""
    wait_until(
        lambda: all(any(event.error is None and event.sent_s > since_s for event in asker.events) for asker in askers),
        "every client was answered again",
    )


def disk_full(times: int) -> list[Row]:
    """Kill the server while the disk of its state folder is full; it comes back while it still is."""
    state_folder = Path(os.environ["RESX_STATE"])
    with small_disk(state_folder, size=12 << 20) as (folder, limit):
        if not folder.is_mount():
            return [Row(fault="state disk full (needs root)", times=0, sent=0, lost=0, wrong=0, seconds=())]
        folder.chmod(0o700)
        return kill("tritonserver", signal.SIGKILL, times, lambda: limit(0), ", state disk full")


def _recovery(repository: Repository, restarts: int) -> Recovery:
    """Wait until the supervisor says that it has brought the server back."""
    wait_until(lambda: current(repository).restarts > restarts, "the supervisor noticed and recovered")
    recovery = current(repository).last_recovery
    assert recovery is not None
    return recovery


def _kill_row(name: str, askers: Sequence[Asker], injected: Sequence[float], detected: tuple[float, ...]) -> Row:
    events = [event for asker in askers for event in asker.events]
    failed = [event for event in events if event.error]
    wrong = sum(not event.right for event in events)
    ends = [*injected[1:], float("inf")]
    seconds = tuple(
        max(_gap_s(asker.events, begin, end) for asker in askers) for begin, end in zip(injected, ends, strict=True)
    )
    outside = [event for event in failed if not any(at <= event.ended_s <= at + RECOVER_S for at in injected)]
    bars = {
        f"{wrong} wrong answers": wrong > 0,
        f"noticed after {max(detected):.1f} s": max(detected) > DETECT_S,
        f"serving again after {max(seconds):.1f} s": max(seconds) > RECOVER_S,
        f"{len(outside)} requests lost outside of the gaps": bool(outside),
        f"{len(failed)} requests lost in spite of retries": bool(askers[0].retries and failed),
    }
    return Row(
        fault=name,
        times=len(injected),
        sent=len(events),
        lost=len(failed),
        wrong=wrong,
        seconds=seconds,
        detected_s=detected,
        missed=tuple(what for what, bad in bars.items() if bad),
    )


def _gap_s(events: Sequence[Event], begin: float, end: float) -> float:
    """Return how long after `begin` a client had its first answer to a request that it sent after the last failure.

    With retries nothing fails; then it is when the slowest request of the gap was answered.
    """
    here = [event for event in events if begin <= event.ended_s < end]
    failed = [event for event in here if event.error]
    if failed:
        return min(event.ended_s for event in here if event.sent_s >= failed[-1].sent_s and not event.error) - begin
    slowest = max(here, key=lambda event: event.ended_s - event.sent_s)
    return slowest.ended_s - begin


def terminate(number: signal.Signals, times: int) -> list[Row]:
    """End `resx serve` by a signal under load; what it answered before must have been everything it accepted."""
    seconds: list[float] = []
    events: list[Event] = []
    lost: list[str] = []
    missed: set[str] = set()
    with published() as (repository, questions):
        for _ in range(times):
            state = serve(repository)
            family = [state.pid, state.server_pid, *(stub.pid for stub in psutil.Process(state.server_pid).children())]
            with load(state, questions, (0, 0)) as askers:
                time.sleep(0.5)
                begun = now_s()
                os.kill(state.pid, number)
                _, status = os.waitpid(state.pid, 0)
                seconds.append(now_s() - begun)
                time.sleep(0.2)
            events += [event for asker in askers for event in asker.events]
            lost += [reason for asker in askers for reason in _unanswered(asker.events)]
            missed |= _remains(repository, state, family)
            if code := os.waitstatus_to_exitcode(status):
                missed.add(f"exit code {code}")
    wrong = sum(not event.right for event in events)
    if lost:
        missed.add(f"{len(lost)} accepted requests without an answer: {lost[0]}")
    if wrong:
        missed.add(f"{wrong} wrong answers")
    if max(seconds) > EXIT_S:
        missed.add(f"ended after {max(seconds):.1f} s")
    answered = sum(event.error is None for event in events)
    row = Row(
        fault=f"{number.name} under load",
        times=times,
        sent=answered + len(lost),
        lost=len(lost),
        wrong=wrong,
        seconds=tuple(seconds),
        missed=tuple(sorted(missed)),
    )
    return [row]


def _unanswered(events: Sequence[Event]) -> list[str]:
    """Return why the requests failed that the server may have accepted.

    It refuses by saying that the model is not loaded, or that nobody listens. Once it has refused a client it
    accepts nothing more of that client's, which sends one request after the other.
    """
    for event in events:
        if event.error is None:
            continue
        refused = isinstance(event.error, NotLoaded) or (
            isinstance(event.error, ConnectionLost) and "refused" in str(event.error)
        )
        return [] if refused else [str(event.error)]
    return []


def _remains(repository: Repository, state: ServerState, family: Sequence[int]) -> set[str]:
    """Return what an ended server left behind."""
    found = {f"process {pid} lives" for pid in family if psutil.pid_exists(pid)}
    found |= {f"shared memory {path.name}" for path in Path("/dev/shm").glob(f"resx-{state.pid}-*")}  # noqa: S108
    if running_server(repository) or (Path(state.log).parent / "server.json").exists():
        found.add("the state file is still there")
    return found


FAULTS: dict[str, Callable[[int], list[Row]]] = {
    "stub-kill": lambda times: kill("stub", signal.SIGKILL, times),
    "stub-segv": lambda times: kill("stub", signal.SIGSEGV, times),
    "server-kill": lambda times: kill("tritonserver", signal.SIGKILL, times),
    "server-segv": lambda times: kill("tritonserver", signal.SIGSEGV, times),
    "sigterm": lambda times: terminate(signal.SIGTERM, times),
    "sighup": lambda times: terminate(signal.SIGHUP, times),
    "state-disk-full": disk_full,
    "swaps": lambda times: fault_deploys.swaps(times * 5 // 2),
    "bad-versions": fault_deploys.bad_versions,
    "killed-deploys": lambda times: fault_commands.killed_deploys(times * 5 // 4),
    "killed-exports": lambda times: fault_commands.killed_exports(times * 5 // 4),
    "disk-full": fault_commands.disk_full,
    "hostile": fault_requests.hostile,
    "bad-neighbours": lambda times: fault_neighbours.bad_neighbours(10_000 * times),
    "folder-deleted": lambda times: fault_outages.folder_deleted(max(1, times // 4)),
    "stub-stopped-cached": lambda times: fault_outages.stub_stopped_with_cache(max(1, times // 4)),
    "overload": lambda times: fault_strain.overload(1.5 * times),
    "proxy": fault_proxy.proxy_set,
    "memory": lambda times: fault_strain.memory(5 * times, 10_000 * times),
}


def main() -> int:
    """Inject, print the table as it grows, and say whether all bars hold."""
    parser = argparse.ArgumentParser(description="Break a served model on purpose and count what clients notice.")
    parser.add_argument("--times", type=int, default=20, help="injections per fault")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--native", action="store_true", help="of a server without stubs, whose faults are left out")
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime", help="what computes the models")
    options = parser.parse_args()
    COMPUTED_BY[:] = [options.runtime]
    if options.native:
        SERVED_WITH.append("--native")
        options.only = [name for name in options.only if not name.startswith("stub")]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="resx-faults-state-") as folder:
        os.environ["RESX_STATE"] = folder
        print(HEADER, flush=True)
        rows = []
        for name in options.only:
            for row in FAULTS[name](options.times):
                print(line(row), flush=True)
                rows.append(row)
    missed = sum(len(row.missed) for row in rows)
    print("all bars hold" if not missed else f"{missed} bars MISSED")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
