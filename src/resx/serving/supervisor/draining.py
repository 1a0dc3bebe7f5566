"""End a server without losing a request that it has accepted.

On SIGTERM Triton 2.51 closes its listening socket but goes on taking requests from every HTTP client that keeps
its connection, for the whole exit timeout; then it drops them, answered or not. (gRPC is served meanwhile,
and refused in the end.) So the models are unloaded first: Triton then refuses what is new, answers what it
had accepted, waiting requests too, and only then lets go of a model. When none is left, no connection has
anything to lose.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from resx.errors import ResxError
from resx.serving.client.client import TritonClient


def drain(client: TritonClient, timeout_s: float) -> bool:
    """Unload every model, the ensembles before what they are made of; say whether all was answered in time."""
    deadline = time.monotonic() + timeout_s
    try:
        ready = client.model_versions()
        ensembles = [name for name in ready if client.is_ensemble(name)]
        return _unload(client, ensembles, deadline) and _unload(client, set(ready) - set(ensembles), deadline)
    except ResxError:  # a server that does not answer has nobody to answer
        return False


def _unload(client: TritonClient, names: Iterable[str], deadline: float) -> bool:
    wanted = set(names)
    for name in wanted:
        client.unload(name)
    while wanted & set(client.model_versions("UNLOADING")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
