"""Take back what was deployed: the version before, or none at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from resx.errors import ServerError, UsageError
from resx.names import checked_name
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NotLoaded
from resx.serving.deployment.deploy import FIRST, Deployed, Manner, deploy
from resx.serving.deployment.rehearsal import forget_rehearsal
from resx.serving.deployment.served_model import alone, find_served
from resx.serving.running.version_records import previous, remembered_as

_UNLOAD_S = 60.0


def rollback(
    client: TritonClient,
    repository: Repository,
    name: str,
    *,
    manner: Manner = FIRST,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Deployed:
    """Let the version answer that answered before the last change, after its canary; a second time goes forward again.

    A version that was kept loaded answers within milliseconds; else it is loaded while the other one answers.

    Raises:
        UsageError: the model is not loaded, or there is no version to go back to.
        VersionRejected: the version before does not answer as its card says; nothing changed.
    """
    repository.version_folder(name)
    return deploy(client, repository, name, version_before(client, repository, name), manner=manner, on_step=on_step)


def version_before(client: TritonClient, repository: Repository, name: str) -> int:
    """Return what a rollback goes to: the older version that is loaded, or that answered before the last change here.

    On a server that was not changed from here it is the version below the one that answers.

    Raises:
        UsageError: the model is not loaded, or there is no such version.
    """
    loaded = client.model_versions().get(name)
    if not loaded:
        raise NotLoaded(f"{name}: is not loaded on {client.address}; `resx deploy {name}` loads it")
    answering, published = loaded[-1], repository.versions(name)
    remembered = previous(repository, name).get(remembered_as(repository, client.address.host_port))
    if len(loaded) > 1:
        return loaded[-2]
    if remembered not in {None, answering} and remembered in published:
        return remembered
    if below := [version for version in published if version < answering]:
        return below[-1]
    raise UsageError(
        f"{name}: version {answering} is served and has no previous version; choose one with `resx deploy --version`"
    )


def undeploy(client: TritonClient, repository: Repository, name: str) -> list[int]:
    """Unload a model and its image endpoint; accepted requests are answered. Return the versions that were loaded.

    Raises:
        UsageError: it is not loaded.
        ServerError: it is not unloaded within a minute.
    """
    known = (repository.root / checked_name(name)).is_dir()
    with alone(repository, name) if known else contextlib.nullcontext():
        before = client.model_versions()
        if repository.is_endpoint(name):
            repository.version_folder(name)  # says whose it is
        model = find_served(client, repository, name)
        if name not in before:
            model.record(name, [], None)  # what recovery would bring back is not to come either
            raise NotLoaded(f"{name}: is not loaded on {client.address}; `resx status` lists the loaded models")
        forget_rehearsal(client, name)
        for part in (*reversed(repository.endpoints(name)), name):
            if part in before:
                client.unload(part)
            model.record(part, [], None)
        deadline = time.monotonic() + _UNLOAD_S
        while name in client.model_versions() or name in client.model_versions("UNLOADING"):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{name}: in-flight requests keep it loaded after {_UNLOAD_S:g} s; new ones are refused"
                )
            time.sleep(0.05)
        return before[name]
