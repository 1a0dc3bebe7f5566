"""`resx export --pareto` and `resx deploy --best-under`: several depths of a run, and one of them on a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.commands.lesion import data_of, images_bar, require_run
from resx.cli.output import Output, print_lines, table
from resx.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resx.analysis.shrink.depth_family import DepthFamily
    from resx.cli.commands.export_formats import EngineFlags
    from resx.data.dataset import DataSet
    from resx.export.request import ExportRequest
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.depth_family_export import Exported
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.deployment.best_under import Candidate, Choice, Tried
    from resx.serving.deployment.deploy import Deployed, Manner


def require_sensible(count: int, source: str, flags: EngineFlags, own: dict[str, bool]) -> None:
    """Refuse what a family cannot be made of, before anything heavy is imported.

    Args:
        count: members that are wanted.
        source: what is exported.
        flags: of the format.
        own: options for what a run has itself, and whether they were given.

    Raises:
        UsageError: it cannot.
    """
    if count < 2:
        raise UsageError(f"--pareto {count}: a family has two members at least; give 2 or more, or leave it out")
    require_run(Path(source))
    if flags.file_format != "onnx":
        raise UsageError(
            f"--pareto: chooses by latency in onnxruntime, and --format {flags.file_format} runs elsewhere; export "
            "the runs of `resx shrink --pareto` one by one"
        )
    given = [option for option, is_given in own.items() if is_given]
    if given:
        raise UsageError(f"{given[0]}: {source} has its own; leave the option out")


def export(
    count: int,
    request: ExportRequest,
    repository: Repository,
    serving: ServingOptions,
    *,
    name: str,
    force: bool,
    command: str,
    out: Output,
) -> None:
    """Publish up to `count` depths of the run that the request names, and print them."""
    from resx.analysis.shrink.depth_family import spread
    from resx.analysis.shrink.search import require_removable
    from resx.machine import usable_cores
    from resx.repository.depth_family_export import FamilyExport, export_family, require_free_names
    from resx.zoo.spec import SPEC_FILE, read_spec

    run = Path(request.source.source)
    spec = read_spec(run / SPEC_FILE)
    require_removable(spec, None)
    require_free_names(repository, name, len(spec.kept_blocks))
    data = data_of(run, "", spec, out)
    family = _search(run, data, request, out)
    chosen = spread(family.sizes.members, count, 1 / spec.classes)
    if len(chosen) < count:
        out.note(f"--pareto {count}: the front has {len(chosen)} members; all of them are exported")
    with out.steps() as step:
        plan = FamilyExport(
            name=name,
            members=_requests(family, chosen, request, data),
            data=data,
            threads=serving.threads or usable_cores(),
            force=force,
            command=command,
        )
        exported = export_family(repository, plan, serving, step)
    payload = {
        "family": name,
        "source": str(run),
        "whole_blocks": family.whole.num_blocks,
        "members": [_as_json(one) for one in exported],
        "sizes": [member.model_dump(mode="json") for member in family.sizes.members],
    }
    out.result(payload, lambda console: _show_exported(console, name, exported, repository))


def _search(run: Path, data: DataSet, request: ExportRequest, out: Output) -> DepthFamily:
    from torch import nn

    from resx.analysis.shrink.depth_family import FOLDER, family_of
    from resx.analysis.shrink.search import SearchOptions
    from resx.export.checks.block_latency import measure_blocks
    from resx.export.graph.batchnorm_fusion import fuse

    def prepare(part: nn.Module) -> nn.Module:
        return fuse(part, target="gpu")

    out.note(f"sizes of {run}: searched once, then kept in {run / FOLDER}")
    with images_bar(out, "blocks less") as on_size:
        return family_of(
            run,
            data,
            SearchOptions(seed=request.source.seed),
            prepare=prepare,
            measure=measure_blocks,
            on_size=on_size,
        )


def _requests(
    family: DepthFamily, chosen: list[Any], request: ExportRequest, data: DataSet
) -> tuple[tuple[int, ExportRequest], ...]:
    from resx.analysis.shrink.depth_family import run_of

    made = []
    for member in chosen:
        source = request.source.model_copy(update={"source": str(run_of(family, member, data))})
        made.append((member.num_blocks, request.model_copy(update={"source": source})))
    return tuple(made)


def _as_json(one: Exported) -> dict[str, Any]:
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


def _show_exported(console: Console, name: str, exported: list[Exported], repository: Repository) -> None:
    rows = [
        [
            one.card.name,
            str(one.version.version),
            f"{one.family.num_blocks} of {one.family.whole_blocks}",
            f"{one.family.accuracy:.2%}",
            f"{one.family.latency_ms:.3g}",
            f"{(one.version.folder / one.card.model_file).stat().st_size / 1e6:.1f}",
        ]
        for one in exported
    ]
    from resx.cli.commands.export_formats import deploying

    console.print(table("", ["model", "version", "blocks", "accuracy", "ms", "MB"], rows))
    first = exported[0].family
    lines = [] if exported[0].is_new else ["the family is published already, as it was; --force makes it again"]
    lines += [
        f"accuracy on {first.num_images} {first.accuracy_on}; ms at batch 1 in onnxruntime, {first.threads} threads "
        f"of {first.processor}",
        f"resx deploy {name} --best-under TIME chooses by the latency on the server, which is longer",
        f"next: {deploying(exported[0].card.name, repository)}",
    ]
    print_lines(console, lines)


def deploy_best(
    address: Address,
    repository: Repository,
    members: list[Candidate],
    bound_ms: float,
    manner: Manner,
    *,
    dry_run: bool,
    out: Output,
) -> None:
    """Deploy the most accurate member that holds the bound, and print how it was found."""
    from resx.serving.client.client import TritonClient
    from resx.serving.deployment.best_under import choose
    from resx.serving.deployment.deploy import deploy

    how = replace(manner, rehearse=manner.rehearse and not dry_run)
    with TritonClient(address) as client, out.steps() as step:
        choice = choose(client, repository, members, bound_ms, manner=how, on_step=step)
        done = None
        if not dry_run:
            # A measured version has answered its canary on this server just now: that was its rehearsal.
            done = deploy(
                client,
                repository,
                choice.chosen.card.name,
                choice.chosen.version,
                manner=replace(manner, rehearse=False),
                on_step=step,
            )
    payload = {
        "family": choice.chosen.family.name, "name": choice.chosen.card.name, "version": choice.chosen.version,
        "url": str(address), "bound_ms": bound_ms, "decided_by": "measured" if choice.measured else "recorded",
        "deployed": not dry_run, "previous": done.previous if done else None,
        "canary_difference": done.canary_difference if done else None, "previous_kept": bool(done and done.kept),
        "members": [_tried_as_json(one) for one in choice.tried],
    }  # fmt: skip
    out.result(payload, lambda console: _show_choice(console, choice, address, done))


def _tried_as_json(one: Tried) -> dict[str, Any]:
    family = one.candidate.family
    return {
        "name": one.candidate.card.name,
        "version": one.candidate.version,
        "num_blocks": family.num_blocks,
        "whole_blocks": family.whole_blocks,
        "accuracy": family.accuracy,
        "recorded_ms": family.latency_ms,
        "measured_ms": one.measured_ms,
        "verdict": one.verdict,
    }


def _show_choice(console: Console, choice: Choice, address: Address, done: Deployed | None) -> None:
    rows = [
        [
            one.candidate.card.name,
            f"{one.candidate.family.num_blocks} of {one.candidate.family.whole_blocks}",
            f"{one.candidate.family.accuracy:.2%}",
            f"{one.candidate.family.latency_ms:.3g}",
            "-" if one.measured_ms is None else f"{one.measured_ms:.3g}",
            one.verdict,
        ]
        for one in choice.tried
    ]
    columns = ["model", "blocks", "accuracy", "ms recorded", "ms measured", f"under {choice.bound_ms:g} ms"]
    console.print(table("", columns, rows))
    decided = f"measured on {address}" if choice.measured else "recorded in the cards, in process at their export"
    name = choice.chosen.card.name
    lines = [f"decided by the latency {decided}"]
    lines.append(
        f"{name} version {done.version} answers on {address}: canary within {done.canary_difference:.1e}"
        if done
        else f"{name} would be deployed if the server agrees; nothing was changed"
    )
    print_lines(console, lines)
