"""Depths of one run: those that were exported, and the one that was chosen for a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resx.cli.marks import show_done, show_next
from resx.cli.output import print_lines, table
from resx.cli.views.deployment import proof_facts
from resx.cli.views.next_step import to_serve

if TYPE_CHECKING:
    from rich.console import Console

    from resx.cli.results.servers import FamilyCandidate
    from resx.repository.depth_family_export import PublishedMember
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.deployment.best_under import Choice, Tried
    from resx.serving.deployment.deploy import Deployed


def exported_depth_as_json(one: PublishedMember) -> dict[str, Any]:
    """Return what `--json` prints of a depth that was exported."""
    card = one.card
    file = one.version.folder / card.model_file
    return {
        "name": card.name,
        "version": one.version.version,
        "folder": str(one.version.folder),
        "file": str(file),
        "is_new": one.is_new,
        "precision": card.precision,
        "target": card.target,
        "size_bytes": file.stat().st_size,
        "verified": card.verified,
        "dropped_blocks": list(card.source.network.dropped_blocks),
        **one.family.model_dump(mode="json", exclude={"name"}),
    }


def show_exported(console: Console, name: str, exported: list[PublishedMember], repository: Repository) -> None:
    """Print the depths that were exported, and how to deploy one."""
    rows = [
        [
            one.card.name,
            str(one.version.version),
            f"{one.family.num_blocks} of {one.family.whole_blocks}",
            f"{100 * one.family.accuracy:.2f}",
            f"{one.family.latency_ms:.3g}",
            f"{(one.version.folder / one.card.model_file).stat().st_size / 1e6:.1f}",
        ]
        for one in exported
    ]
    console.print(table("", ["model", "version", "blocks", "accuracy %", "ms", "MB"], rows))
    first = exported[0].family
    lines = [] if exported[0].is_new else ["the family is unchanged and published already; --force exports it again"]
    lines += [
        f"accuracy on {first.num_images} {first.accuracy_on}; ms at batch 1 in onnxruntime, {first.threads} threads "
        f"of {first.processor}",
        f"resx deploy {name} --best-under TIME chooses by the latency on the server, which is higher",
    ]
    print_lines(console, lines)
    show_next(console, to_serve(exported[0].card.name, repository))


def tried_as_json(one: Tried) -> FamilyCandidate:
    """Return what `--json` prints of a member."""
    family = one.member.family
    return {
        "name": one.member.card.name,
        "version": one.member.version,
        "num_blocks": family.num_blocks,
        "whole_blocks": family.whole_blocks,
        "accuracy": family.accuracy,
        "recorded_ms": family.latency_ms,
        "measured_ms": one.measured_ms,
        "verdict": one.verdict,
    }


def show_choice(console: Console, choice: Choice, address: Address, done: Deployed | None, next_step: str) -> None:
    """Print the members with their latencies, the one that was chosen, and what comes next."""
    rows = [
        [
            one.member.card.name,
            f"{one.member.family.num_blocks} of {one.member.family.whole_blocks}",
            f"{100 * one.member.family.accuracy:.2f}",
            f"{one.member.family.latency_ms:.3g}",
            "-" if one.measured_ms is None else f"{one.measured_ms:.3g}",
            one.verdict,
        ]
        for one in choice.tried
    ]
    columns = ["model", "blocks", "accuracy %", "recorded ms", "measured ms", f"under {choice.bound_ms:g} ms"]
    console.print(table("", columns, rows, least=("recorded ms",)))
    decided = f"measured on {address}" if choice.measured else "recorded in the cards at export, in process"
    name = choice.chosen.card.name
    print_lines(console, [f"decided by the latency {decided}"])
    if done:
        show_done(console, f"Deployed {name} v{done.version}", f"on {address}", *proof_facts(done, None))
    else:
        print_lines(console, [f"{name} would be deployed if the server agrees; nothing was changed"])
    show_next(console, next_step)
