"""What a deployment did on each of several servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.views.deployment import proof_facts

if TYPE_CHECKING:
    from resx.cli.results.servers import FleetServer
    from resx.serving.deployment.fleet import Rollout, ServerOutcome


def outcome_as_json(outcome: ServerOutcome) -> FleetServer:
    """Return what `--json` prints of one server."""
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


def outcome_line(rollout: Rollout, outcome: ServerOutcome) -> str:
    """Return what happened on one server, in one line."""
    where, done = outcome.member.address, outcome.done
    before = f"version {outcome.before} answers" if outcome.before else "it is not loaded"
    if outcome.happened == "deployed" and done:
        facts = proof_facts(done, outcome.before if outcome.before != rollout.version else None)
        return f"{where}: {rollout.name} version {rollout.version} is deployed: {', '.join(facts)}"
    if outcome.happened == "rolled back":
        return f"{where}: rolled back, {before} again" if outcome.before else f"{where}: rolled back, {before}"
    if outcome.happened == "not rolled back":
        return f"{where}: NOT ROLLED BACK, {outcome.trouble}"
    if outcome.happened == "refused":
        return f"{where}: version {rollout.version} refused, {before}"
    return f"{where}: untouched, {before}"
