"""`resx deploy NAME --url A,B,C`: several servers, one after another, and one line about each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resx.cli.marks import show_next
from resx.cli.options.connection import Connection
from resx.cli.output import Output, print_lines
from resx.cli.views import random_weights
from resx.cli.views.fleet_rollout import outcome_as_json, outcome_line
from resx.cli.views.next_step import to_apply
from resx.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.servers import FleetDeployed, FleetPlan
    from resx.repository.versions import Repository
    from resx.serving.deployment.deploy import Manner
    from resx.serving.deployment.fleet import FleetServer


def members_of(connection: Connection, repository: Repository) -> list[FleetServer]:
    """Return the servers that a list of addresses names, separated by commas.

    Raises:
        UsageError: an address is malformed, or two are the same server's.
    """
    from resx.serving.client.loopback import LOOPBACK, means_embedded, split_host
    from resx.serving.deployment.fleet import member_at
    from resx.serving.running.server_state import server_at

    url = connection.url
    members: list[FleetServer] = []
    seen: dict[str, str] = {}
    for part in (part.strip() for part in url.split(",")):
        if not part:
            raise UsageError(f"--url {url}: an address is empty; give A,B,C without a comma at the end")
        member = member_at(connection.address(part), repository)
        host, port = split_host(member.address.host_port.lower())
        state = server_at(member.address.host_port)
        identity = f"process {state.pid}" if state else f"{LOOPBACK if means_embedded(host) else host}:{port}"
        if identity in seen:
            raise UsageError(f"--url {url}: {seen[identity]} and {part} are the same server; list each once")
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
    payload: FleetDeployed = {
        "name": rollout.name,
        "version": rollout.version,
        "deployed": rollout.ended_by is None,
        "servers": [outcome_as_json(outcome) for outcome in rollout.outcomes],
    }
    lines = [outcome_line(rollout, outcome) for outcome in rollout.outcomes]
    out.result(payload, lambda console: print_lines(console, lines), rollout.ended_by)
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
    payload: FleetPlan = {
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
        lines += one.diff or ["configuration: unchanged"]

    def show(console: Console) -> None:
        print_lines(console, lines)
        show_next(console, to_apply())

    out.result(payload, show)
