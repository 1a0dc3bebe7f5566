"""A proxy in the environment that answers nobody: what is on this machine is asked without it.

Bars: the server starts, deploys, is asked and stops; no request lost or wrong, and no restart by a canary that went
astray.
"""

from __future__ import annotations

import os
import time

from benchmarks.fault_clients import Row, load, published, row_without_loss, serve
from tests.support.running_triton import MODEL, current

from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import deploy
from resx.serving.running.server_state import now_s

_NOBODY = "http://127.0.0.1:9"
_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_LOAD_S = 1.0


def proxy_set(times: int) -> list[Row]:
    """Serve and deploy again and again, under load, with every variable for a proxy set and none for exceptions."""
    seconds: list[float] = []
    missed: set[str] = set()
    set_here = {name: _NOBODY for variable in _VARIABLES for name in (variable, variable.upper())}
    before = dict(os.environ)
    os.environ.update(set_here | {"no_proxy": "", "NO_PROXY": ""})
    try:
        with published() as (repository, questions):
            state = serve(repository)
            with load(state, questions, (0, 0)) as askers:
                for _ in range(times):
                    begun = now_s()
                    with TritonClient(state.address("grpc")) as client:
                        deploy(client, repository, MODEL)
                    seconds.append(now_s() - begun)
                    time.sleep(_LOAD_S)
            if current(repository).restarts:
                missed.add("the supervisor restarted a healthy server")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return [row_without_loss("proxy set", times, askers, seconds, missed)]
