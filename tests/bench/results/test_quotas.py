"""A figure that was taken while a CPU quota was used up says so."""

from __future__ import annotations

import subprocess
import sys

from resx.bench.load.load_plan import LoadPlan
from resx.bench.results.result import Answers, Client, Stability
from resx.bench.results.verdict import Findings, reasons_against, remarks_on
from tests.support.control_groups import control_group

_BURN = """
import os, time
open({group!r} + "/cgroup.procs", "w").write(str(os.getpid()))
from resx.bench.results.quotas import quotas_of
from resx.serving.client.address import parse_address
nobody = parse_address("127.0.0.1:9", "grpc")
print(quotas_of(nobody).used_up())
quotas = quotas_of(nobody)
begun = time.process_time()
while time.process_time() - begun < 0.05:
    pass
print(quotas.used_up())
"""


def test_a_client_that_used_its_quota_up_is_told_of() -> None:
    """A twentieth of a core: whoever computes for 50 ms of its time stands still in most periods."""
    with control_group(quota_us=5_000) as group:
        done = subprocess.run(
            [sys.executable, "-c", _BURN.format(group=str(group))],
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )

    assert done.returncode == 0, done.stderr
    assert "throttled: client exhausted the CPU quota in " in done.stdout.splitlines()[-1]


def test_a_throttled_load_is_remarked_on_and_stays_valid() -> None:
    findings = Findings(
        plan=LoadPlan(concurrency=1),
        sent=10,
        answered=10,
        window_s=1.0,
        requests_per_s=10.0,
        client=Client(processes=1, cpu_ms_per_request=0.1, cpu_share=0.1, ceiling_requests_per_s=None),
        late=None,
        answers=Answers(checked=10, wrong=0, reference="the card", worst=0.0, tolerance=0.1),
        stability=Stability(rates_per_s=(10.0, 10.0, 10.0), spread=0.0, stable=True),
        server=None,
        most_served=10,
        interrupted="",
        server_is_local=False,
        cached_share=0.0,
        throttled=("throttled: server used the CPU quota up",),
    )

    assert remarks_on(findings) == findings.throttled
    assert reasons_against(findings) == ()
