"""Load one model again on a server that runs, and see whether it answers as it should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resx.errors import ResxError, ServerBusy, UsageError
from resx.repository import config_rules
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NoAnswerInTime, NotLoaded
from resx.serving.deployment import version_pinning
from resx.serving.deployment.first_answer import require_answer
from resx.serving.deployment.served_model import canary
from resx.serving.embedded.python_models import require_none_of_others
from resx.serving.supervisor.decisions import LoadFailed
from resx.serving.supervisor.health_watch import num_finished


def reload(
    client: TritonClient, repository: Repository, name: str, versions: Sequence[int], server_dir: str = ""
) -> None:
    """Load a model anew though the server, of that folder if it is not resx's own, has it.

    Raises:
        LoadFailed: it does not load.
        NoAnswerInTime: nor is it refused.
    """
    try:
        repository.require_readable(name, None)  # Triton looks at the model's other versions too
        config_rules.require_contained(repository.root, name)
        require_none_of_others(repository.root, name, server_dir)
        served = None
        if not (repository.root / name / CONFIG_FILE).exists():
            served = _served_config(client, name)
            if served is None:  # there is nothing to name versions in: it gets the newest
                client.load(name)
                return
        client.load(name, version_pinning.reloading_json(repository, name, versions, served))
    except NoAnswerInTime:
        raise
    except (ResxError, OSError) as error:
        raise LoadFailed(f"{name} does not load: {error}") from error


def _served_config(client: TritonClient, name: str) -> dict[str, Any] | None:
    try:
        return client.config(name)
    except NotLoaded:
        return None


def prove_version(client: TritonClient, repository: Repository, name: str, version: int, server_dir: str = "") -> None:
    """Check that a version is loaded and answers as its card says; overload is no fault.

    Raises:
        LoadFailed: it is not loaded; why, as far as its files say.
        ResxError: it does not answer, or wrongly.
    """
    if version not in client.model_versions().get(name, []):
        try:
            repository.require_readable(name, None)
        except UsageError as error:  # a mount may come back
            raise LoadFailed(str(error)) from error
        config_rules.require_contained(repository.root, name)
        require_none_of_others(repository.root, name, server_dir)
        raise LoadFailed(f"{name} version {version} did not load; `resx logs` says why")
    if not repository.has_card(name, version):
        require_answer(client, name, version)
        return
    card = repository.card(name, version)
    before = num_finished(client, name, version)
    try:
        canary(client, name, version, card)
    except (NoAnswerInTime, ServerBusy):
        if num_finished(client, name, version) <= before:
            raise
