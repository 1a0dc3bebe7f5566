"""Bring a version into service on several servers, one after another; if one of them refuses it, on none.

Each step is `deploy`, as for one server. What is added: all of them are asked before the first is changed, each
gets the version into its repository if that is not the one it comes from, and what was changed is put back.

A server's repository is the one that is deployed from, as for a single server, unless it is an embedded one of this
user's over another: those share none, because each holds the lock of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from resx.card import card as cards
from resx.card.card import Card
from resx.errors import ResxError, ServerError, UsageError
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.sharing.version_copies import copy_version, has_copy, require_copyable
from resx.repository.versions import Repository
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import Deployed, Manner, deploy_alone
from resx.serving.deployment.dry_run import Plan, plan
from resx.serving.deployment.file_checks import check_files
from resx.serving.deployment.served_model import ServedModel, alone, canary, find_served
from resx.serving.running.ending_signals import without_interruption
from resx.serving.running.server_state import server_at
from resx.serving.running.version_records import (
    OURS,
    previous,
    read_chosen,
    read_deployed,
    record_chosen,
    record_deployed,
    record_previous,
)

Happened = Literal["deployed", "refused", "rolled back", "not rolled back", "untouched"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetServer:
    """One server of the fleet, and the repository that it reads."""

    address: Address
    repository: Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOutcome:
    """What became of one server."""

    member: FleetServer
    happened: Happened
    before: int | None
    """The version that answered when all were asked."""
    done: Deployed | None = None
    """The deployment, if it succeeded here, whatever became of it later."""
    trouble: str = ""
    """Why it refused the version, or was not put back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """What became of all of them, in the order that they were named in."""

    name: str
    version: int
    outcomes: tuple[ServerOutcome, ...]
    ended_by: ResxError | KeyboardInterrupt | None
    """What ended it before the last one; None: the version answers on all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A server that answers, and what it served before."""

    member: FleetServer
    model: ServedModel
    loaded: dict[str, tuple[int, ...]]
    """Of the model and its endpoint."""
    recorded: tuple[int, ...]
    """The versions that a recovery of an embedded server would bring back."""
    previous: int | None
    """The version that a rollback would go to."""
    chosen: tuple[int, ...]
    """The versions that were deployed last, and not only started with."""

    @property
    def before(self) -> int | None:
        """The version that answered."""
        return max(self.loaded.get(self.model.name, ()), default=None)


def member_at(address: Address, repository: Repository) -> FleetServer:
    """Return the server at `address`: over `repository`, or an embedded one over its own, with its key."""
    state = server_at(address.host_port) if address.tls is None else None
    if state is None:
        return FleetServer(address=address, repository=repository)
    own = state.address(address.protocol)
    wrong_port = own.host_port.rpartition(":")[2] != address.host_port.rpartition(":")[2]
    served = Repository(Path(state.repository))
    shared = served.root.resolve() == repository.root.resolve()
    return FleetServer(address=address if wrong_port else own, repository=repository if shared else served)


def roll_out(
    members: Sequence[FleetServer],
    source: Repository,
    name: str,
    version: int | None,
    *,
    manner: Manner,
    on_step: Callable[[str], None],
) -> Rollout:
    """Let a version of `source` answer on every server, the newest if none is named, or on none.

    The servers are changed in turn, each as `deploy` does it, and the first failure or Ctrl-C ends that: then all that
    were changed serve again what they served before, in reverse order. Copies that were published stay.

    Raises:
        UsageError: there is no such version, or a server's repository cannot take it or put back what is loaded.
        VersionRejected: the file is not the one that was verified.
        MissingCapability: a server cannot be reached, or cannot run such a version.
        ServerError: another deployment of the model is under way and `manner.wait` is false.
    """
    number = int(source.version_folder(name, version).name)
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(TritonClient(member.address)) for member in members]
        _ask_all(members, clients, source, name, number)
        repositories = {member.repository.root.resolve(): member.repository for member in members}
        for repository in repositories.values():
            if not (repository == source or has_copy(source, repository, name, number)):
                on_step(f"publish version {number} in {repository.root}")
                copy_version(source, repository, name, number)
        for root in sorted(repositories):  # in one order, so that no two commands wait for each other
            held.enter_context(alone(repositories[root], name, wait=manner.wait, on_step=on_step))
        asked = [_ask(member, client, name) for member, client in zip(members, clients, strict=True)]
        return _roll_out(asked, name, number, manner, on_step)


def plans(
    members: Sequence[FleetServer], source: Repository, name: str, version: int | None, manner: Manner
) -> list[tuple[Plan, bool]]:
    """Return per server what would be done, and whether the version would be copied; nothing is changed.

    Raises:
        UsageError, VersionRejected, MissingCapability: as `roll_out`.
    """
    number = int(source.version_folder(name, version).name)
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(TritonClient(member.address)) for member in members]
        _ask_all(members, clients, source, name, number)
        return [
            (
                plan(client, source, name, number, manner),
                not (member.repository == source or has_copy(source, member.repository, name, number)),
            )
            for member, client in zip(members, clients, strict=True)
        ]


def _roll_out(
    asked: Sequence[_Asked], name: str, version: int, manner: Manner, on_step: Callable[[str], None]
) -> Rollout:
    outcomes: list[ServerOutcome] = []
    try:
        for one in asked:
            steps = _steps_of(one, on_step)
            done = deploy_alone(one.model, one.model.repository.find(name, version), manner=manner, on_step=steps)
            outcomes.append(ServerOutcome(member=one.member, happened="deployed", before=one.before, done=done))
    except (ResxError, KeyboardInterrupt) as error:
        rest = asked[len(outcomes) :]
        for one in rest[:1]:
            reason = str(error) or "interrupted"
            outcomes.append(ServerOutcome(member=one.member, happened="refused", before=one.before, trouble=reason))
        without_interruption(partial(_take_all_back, asked, outcomes, name, on_step))
        outcomes += [ServerOutcome(member=one.member, happened="untouched", before=one.before) for one in rest[1:]]
        ended_by = _named(rest[0], error) if rest else error
        return Rollout(name=name, version=version, outcomes=tuple(outcomes), ended_by=ended_by)
    return Rollout(name=name, version=version, outcomes=tuple(outcomes), ended_by=None)


def _take_all_back(
    asked: Sequence[_Asked], outcomes: list[ServerOutcome], name: str, on_step: Callable[[str], None]
) -> None:
    """Put back what was changed, the last first, and say so in `outcomes`."""
    for position in reversed(range(len(outcomes))):
        one, outcome = asked[position], outcomes[position]
        try:
            changed = _take_back(one, name, _steps_of(one, on_step))
        except ResxError as error:
            outcomes[position] = replace(outcome, happened="not rolled back", trouble=str(error))
        else:
            if changed:
                outcomes[position] = replace(outcome, happened="rolled back")


def _take_back(one: _Asked, name: str, on_step: Callable[[str], None]) -> bool:
    """Let a server serve what it served before, and prove it; return whether there was something to change.

    Raises:
        ResxError: it does not.
    """
    model = one.model
    repository, client, server = model.repository, model.client, model.server
    if server == OURS:  # first, as this is what comes back if the server dies now
        record_deployed(repository, name, one.recorded)
    record_chosen(repository, server, name, one.chosen)
    loaded = _loaded_versions(model)
    if loaded == one.loaded:
        return False
    on_step("restore what it served")
    for endpoint in repository.endpoints(name):
        if endpoint in loaded and endpoint not in one.loaded:
            client.unload(endpoint)
            if server == OURS:
                record_deployed(repository, endpoint, [])
    said = model.restore(one.loaded.get(name, ()))
    if model.loaded() != one.loaded.get(name, ()):
        raise ServerError(f"{client.address}: {said}")
    if one.previous is not None:
        record_previous(repository, server, name, one.previous)
    if (before := one.before) is not None:
        canary(client, name, before, _card(repository, name, before))
    return True


def _ask_all(
    members: Sequence[FleetServer], clients: Sequence[TritonClient], source: Repository, name: str, version: int
) -> None:
    """See that every server could be changed, and put back; change nothing.

    Raises:
        ResxError: the kind of the first that could not, with all of their reasons.
    """
    if not (source.root / name / CONFIG_FILE).is_file():
        raise UsageError(
            f"{name}: has no {CONFIG_FILE}, so a failed rollout could not be undone; deploy to one server at a time"
        )
    errors: list[ResxError] = []
    for member, client in zip(members, clients, strict=True):
        try:
            check_files(find_served(client, source, name), source.find(name, version))
            loaded = client.model_versions().get(name, [])
            repository = member.repository
            if missing := sorted(set(loaded) - set(repository.versions(name))):
                raise UsageError(
                    f"{member.address}: serves {name} version {missing[0]}, which is not in {repository.root}, so it "
                    "could not be restored; set --repository to its folder, or deploy to that server on its own"
                )
            if not (repository == source or has_copy(source, repository, name, version)):
                require_copyable(source, repository, name, version)
        except ResxError as error:
            errors.append(error)
    if errors:
        raise type(errors[0])(f"{'; '.join(map(str, errors))}; no server was changed") from errors[0]


def _ask(member: FleetServer, client: TritonClient, name: str) -> _Asked:
    model = find_served(client, member.repository, name)
    return _Asked(
        member=member,
        model=model,
        loaded=_loaded_versions(model),
        recorded=read_deployed(member.repository).get(name, ()),
        previous=previous(member.repository, name).get(model.server),
        chosen=read_chosen(member.repository, name).get(model.server, ()),
    )


def _loaded_versions(model: ServedModel) -> dict[str, tuple[int, ...]]:
    versions, parts = model.client.model_versions(), (model.name, *model.repository.endpoints(model.name))
    return {part: tuple(versions[part]) for part in parts if part in versions}


def _card(repository: Repository, name: str, version: int) -> Card | None:
    folder = repository.version_folder(name, version)
    return cards.read_card(folder) if (folder / cards.FILE_NAME).is_file() else None


def _steps_of(one: _Asked, on_step: Callable[[str], None]) -> Callable[[str], None]:
    return lambda step: on_step(f"{one.member.address}: {step}")


def _named(one: _Asked, error: ResxError | KeyboardInterrupt) -> ResxError | KeyboardInterrupt:
    """Let an error say which server it is about."""
    if isinstance(error, KeyboardInterrupt) or str(error).startswith(str(one.member.address)):
        return error
    named = type(error)(f"{one.member.address}: {error}")
    named.__cause__ = error
    return named
