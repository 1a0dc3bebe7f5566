"""What a deployment did on one server, and what it would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.marks import show_done, show_next
from resx.cli.output import Output, print_lines
from resx.cli.views import random_weights
from resx.cli.views.next_step import to_apply

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results import servers
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.deployment.deploy import Deployed
    from resx.serving.deployment.dry_run import Plan


def show_deployed(
    out: Output, address: Address, done: Deployed, repository: Repository, *, next_step: str, verb: str = "Deployed"
) -> None:
    """Print which version answers, what was before it, and the command that looks at it."""
    is_random = done.checked and repository.card(done.name, done.version).source.is_random
    payload: servers.Deployed = {
        "name": done.name, "version": done.version, "previous": done.previous, "url": str(address),
        "canary_difference": done.canary_difference, "checked": done.checked, "previous_kept": done.kept,
        "random_weights": is_random,
    }  # fmt: skip

    def show(console: Console) -> None:
        replaced = done.previous if done.previous != done.version else None
        facts = proof_facts(done, replaced)
        show_done(console, f"{verb} {done.name} v{done.version}", f"on {address}", *facts)
        show_next(console, next_step)

    out.result(payload, show)
    random_weights.warn(out, done.name, is_random=is_random)


def proof_facts(done: Deployed, replaced: int | None) -> list[str]:
    """Return how a version proved itself, and what became of the one before."""
    proof = f"self-test passed (error {done.canary_difference:.0e})" if done.checked else "not checked: it has no card"
    if not replaced:
        return [proof]
    return [proof, f"version {replaced} is still loaded" if done.kept else f"replaced version {replaced}"]


def show_plan(out: Output, address: Address, planned: Plan) -> None:
    """Print what would be done; nothing was changed."""
    payload: servers.DeployPlan = {
        "name": planned.name,
        "version": planned.version,
        "answering": planned.answering,
        "url": str(address),
        "diff": list(planned.diff),
        "checks": list(planned.checks),
    }
    answering = f"version {planned.answering} answers" if planned.answering else "it is not loaded"
    lines = [f"{planned.name} version {planned.version} on {address}, where {answering}; nothing was changed"]
    lines += [f"  {number}. {check}" for number, check in enumerate(planned.checks, 1)]
    lines += planned.diff or ["configuration: unchanged"]

    def show(console: Console) -> None:
        print_lines(console, lines)
        show_next(console, to_apply())

    out.result(payload, show)
