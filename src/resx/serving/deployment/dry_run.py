"""What `resx deploy` would do: the configuration's change and the checks, with nothing changed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from resx.card.card import Card
from resx.repository import config_pbtxt
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.client.server_errors import NotLoaded
from resx.serving.deployment import version_pinning
from resx.serving.deployment.deploy import Manner
from resx.serving.deployment.file_checks import check_files
from resx.serving.deployment.served_model import ServedModel, find_served
from resx.serving.deployment.version_switch import VersionSwitch, plan_switch


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A deployment that was not made."""

    name: str
    version: int
    answering: int | None
    diff: tuple[str, ...]
    """Of the configuration on the server and the one that would be loaded, as unified lines; empty: the same."""
    checks: tuple[str, ...]
    """What would be done, in its order."""


def plan(client: TritonClient, repository: Repository, name: str, version: int | None, manner: Manner) -> Plan:
    """Return what deploying would do. The files are checked already.

    Raises:
        UsageError: the repository has no such model or version, or --keep-previous cannot be followed.
        VersionRejected: a file is not the one that was verified.
        MissingCapability: the server cannot be reached, or cannot run such a version.
    """
    published, model = repository.find(name, version), find_served(client, repository, name)
    card = check_files(model, published)
    model.require_in_its_repository()
    old = max(model.loaded(), default=None)
    return Plan(
        name=name,
        version=published.version,
        answering=old,
        diff=tuple(_diff(model, published.version)),
        checks=tuple(_checks(model, published.version, card, old, manner)),
    )


def _checks(model: ServedModel, version: int, card: Card | None, old: int | None, manner: Manner) -> list[str]:
    name = model.name
    found = ["files have the hashes in the card: checked now"] if card else ["no card to compare with"]
    if not model.has_config:
        return [*found, f"load {name} with the interface in its file"]
    proof = "run its self-test" if card else "check that it loads"
    switch = plan_switch(model.repository, name, old, version, keep_previous=manner.keep_previous)
    if manner.rehearse and switch.is_rehearsed:
        found.append(f"load version {version} as ~{name}, {proof}, unload it")
    found.append(f"load version {version}" + _during_the_load(switch))
    found.append(f"run its self-test, within {card.canary.tolerance:g}" if card else proof)
    if switch.is_monitored and manner.trial_s:
        found.append(f"monitor it for {manner.trial_s:g} s{switch.standby}")
    if old not in {None, version} and switch.alike:
        found.append(f"keep version {old} loaded" if manner.keep_previous else f"unload version {old}")
    return [*found, *(f"load {endpoint}" for endpoint in model.repository.endpoints(name))]


def _during_the_load(switch: VersionSwitch) -> str:
    if not switch.alike:
        return f" in place of version {switch.old}, whose runtime or precision differs"
    return f", version {switch.old} keeps serving" if switch.old and switch.new < switch.old else ""


def _diff(model: ServedModel, version: int) -> list[str]:
    """Compare what the server has with what it would be told; what it completed itself is left out."""
    if not model.has_config:
        return []
    name = model.name
    wanted = version_pinning.parse(version_pinning.config_json(model.repository, name, [version]))
    try:
        served = model.client.config(name)
    except NotLoaded:
        return [f"+{line}" for line in config_pbtxt.text(wanted).splitlines()]
    before = version_pinning.parse(served)
    before.parameters.pop("resx.loaded", None)
    _leave_out_what_was_completed(before, wanted)
    lines = difflib.unified_diff(
        config_pbtxt.text(before).splitlines(),
        config_pbtxt.text(wanted).splitlines(),
        f"{name} on {model.client.address}",
        f"{name} version {version}",
        lineterm="",
        n=1,
    )
    return list(lines)


def _leave_out_what_was_completed(served: Any, wanted: Any) -> None:
    """Clear the fields of `served` that `wanted` does not say, in the messages inside too."""
    for field, value in served.ListFields():
        said = getattr(wanted, field.name)
        if not (wanted.HasField(field.name) if field.has_presence else said):
            served.ClearField(field.name)
        elif field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        elif field.is_repeated:
            for mine, theirs in zip(value, said, strict=False):
                _leave_out_what_was_completed(mine, theirs)
        else:
            _leave_out_what_was_completed(value, said)
