"""`resx deploy NAME --url A,B,C`: several servers, one after another, and one line about each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from resx.cli.output import Output, print_lines
from resx.cli.views import random_weights
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.deployment.deploy import Manner
    from resx.serving.deployment.fleet import FleetServer, Rollout, ServerOutcome


def members_of(url: str, repository: Repository, address_of: Callable[[str], Address]) -> list[FleetServer]:
    """Return the servers that a list of addresses names.

    Raises:
        UsageError: an address is malformed, or two are the same server's.
    """
    from resx.serving.client.loopback import LOOPBACK, means_embedded, split_host
    from resx.serving.deployment.fleet import member_at
    from resx.serving.running.server_state import server_at

    members: list[FleetServer] = []
    seen: dict[str, str] = {}
    for part in (part.strip() for part in url.split(",")):
        if not part:
            raise UsageError(f"--url {url}: an address is empty; give A,B,C without a comma at the end")
        member = member_at(address_of(part), repository)
        host, port = split_host(member.address.host_port.lower())
        state = server_at(member.address.host_port)
        identity = f"process {state.pid}" if state else f"{LOOPBACK if means_embedded(host) else host}:{port}"
        if identity in seen:
            raise UsageError(f"--url {url}: {seen[identity]} and {part} are one server; name each once")
        seen[identity] = part
        members.append(member)
    return members


def deploy_to_all(
    members: Sequence[FleetServer], repository: Repository, name: str, version: int | None, manner: Manner, out: Output
) -> None:
    """Deploy to each in turn and print what happened; end as the failure of the first that refused.

    Raises:
        ResxError: as `roll_out`, or what ended it; the lines are printed by then.
        KeyboardInterrupt: likewise.
    """
    from resx.serving.deployment.fleet import roll_out

    with out.steps() as step:
        rollout = roll_out(members, repository, name, version, manner=manner, on_step=step)
    payload = {
        "name": rollout.name,
        "version": rollout.version,
        "deployed": rollout.ended_by is None,
        "servers": [_as_json(outcome) for outcome in rollout.outcomes],
    }
    lines = [_line(rollout, outcome) for outcome in rollout.outcomes]
    out.result(payload, lambda console: print_lines(console, lines))
    checked = any(outcome.done is not None and outcome.done.checked for outcome in rollout.outcomes)
    is_random = checked and repository.card(name, rollout.version).source.is_random
    random_weights.warn(out, name, is_random=is_random)
    if rollout.ended_by is not None:
        raise rollout.ended_by


def show_plans(
    members: Sequence[FleetServer], repository: Repository, name: str, version: int | None, manner: Manner, out: Output
) -> None:
    """Print what would be done on each; nothing is changed."""
    from resx.serving.deployment.fleet import plans

    found = plans(members, repository, name, version, manner)
    payload = {
        "name": name,
        "version": found[0][0].version,
        "servers": [
            {
                "url": str(member.address),
                "repository": str(member.repository.root),
                "answering": one.answering,
                "publishes": copies,
                "diff": list(one.diff),
                "checks": list(one.checks),
            }
            for member, (one, copies) in zip(members, found, strict=True)
        ],
    }
    lines = [f"{name} version {found[0][0].version} on {len(members)} servers, one after another; nothing was changed"]
    for member, (one, copies) in zip(members, found, strict=True):
        answering = f"version {one.answering} answers" if one.answering else "it is not loaded"
        lines.append(f"{member.address}, where {answering}")
        steps = [f"copy it into {member.repository.root}"] if copies else []
        lines += [f"  {number}. {check}" for number, check in enumerate([*steps, *one.checks], 1)]
        lines += one.diff or ["configuration: as it is"]
    out.result(payload, lambda console: print_lines(console, lines))


def _as_json(outcome: ServerOutcome) -> dict[str, Any]:
    done = outcome.done
    return {
        "url": str(outcome.member.address),
        "repository": str(outcome.member.repository.root),
        "happened": outcome.happened,
        "previous": outcome.before,
        "trouble": outcome.trouble or None,
        "canary_difference": done.canary_difference if done else None,
        "checked": done.checked if done else None,
        "previous_kept": bool(done and done.kept),
    }


def _line(rollout: Rollout, outcome: ServerOutcome) -> str:
    where, done = outcome.member.address, outcome.done
    before = f"version {outcome.before} answers" if outcome.before else "it is not loaded"
    if outcome.happened == "deployed" and done:
        proof = f"canary within {done.canary_difference:.1e}" if done.checked else "unchecked, as it has no card"
        was = f", version {outcome.before} before" if outcome.before not in {None, rollout.version} else ""
        kept = ", still loaded" if done.kept else ""
        return f"{where}: {rollout.name} version {rollout.version} answers: {proof}{was}{kept}"
    if outcome.happened == "rolled back":
        return f"{where}: rolled back, {before} again" if outcome.before else f"{where}: rolled back, {before}"
    if outcome.happened == "not rolled back":
        return f"{where}: NOT ROLLED BACK, {outcome.trouble}"
    if outcome.happened == "refused":
        return f"{where}: version {rollout.version} refused, {before}"
    return f"{where}: untouched, {before}"
