"""`resx export --pareto` and `resx deploy --best-under`: several depths of a run, and one of them on a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.output import Output
from resx.cli.steps.export_formats import ExportJob
from resx.cli.steps.interruption import keep_interrupts
from resx.cli.steps.study_inputs import data_of, require_run
from resx.cli.views.depth_family import exported_depth_as_json, show_choice, show_exported, tried_as_json
from resx.cli.views.progress import show_bar
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.analysis.shrink.depth_family import DepthFamily
    from resx.card.runtime import RuntimeName
    from resx.cli.results.servers import DeployedBest
    from resx.data.dataset import DataSet
    from resx.export.request import ExportRequest
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.deployment.best_under import Member
    from resx.serving.deployment.deploy import Manner


def require_sensible(count: int, source: str, file_format: str, runtime: RuntimeName) -> None:
    """Refuse what a family cannot be made of, before anything heavy is imported.

    Raises:
        UsageError: `count` members are none, the source is no run, or its file would run outside onnxruntime.
    """
    if count < 2:
        raise UsageError(f"--pareto {count}: a family has at least two members; give 2 or more, or remove it")
    require_run(Path(source))
    if file_format != "onnx":
        raise UsageError(
            f"--pareto: measures latency in onnxruntime, but --format {file_format} does not run there; export the "
            "runs of `resx shrink --pareto` one by one"
        )
    if runtime != "onnxruntime":
        raise UsageError(
            f"--pareto: chooses by latency in onnxruntime, and {runtime} would compute the members; export "
            "the runs of `resx shrink --pareto` one by one"
        )


def export(count: int, job: ExportJob, *, force: bool, out: Output) -> None:
    """Publish up to `count` depths of the run that the job names, and print them."""
    from resx.analysis.shrink.depth_family import spread
    from resx.analysis.shrink.search import require_removable
    from resx.machine import usable_cores
    from resx.repository.depth_family_export import FamilyExport, export_family, require_free_names
    from resx.zoo.spec import SPEC_FILE, read_spec

    run = Path(job.request.source.source)
    spec = read_spec(run / SPEC_FILE)
    require_removable(spec, None)
    require_free_names(job.repository, job.name, len(spec.kept_blocks))
    data = data_of(run, "", spec, out)
    family = _search(run, data, job.request, out)
    chosen = spread(family.sizes.members, count, 1 / spec.classes)
    if len(chosen) < count:
        out.note(f"--pareto {count}: the front has {len(chosen)} members; all are exported")
    with out.steps() as announce, keep_interrupts(announce) as step:
        plan = FamilyExport(
            name=job.name,
            members=_requests(family, chosen, job.request, data),
            data=data,
            threads=job.serving.threads or usable_cores(),
            force=force,
            command=job.command,
        )
        exported = export_family(job.repository, plan, job.serving, step)
    payload = {
        "family": job.name,
        "source": str(run),
        "whole_blocks": family.whole.num_blocks,
        "members": [exported_depth_as_json(one) for one in exported],
        "sizes": [member.model_dump(mode="json") for member in family.sizes.members],
    }
    out.result(payload, lambda console: show_exported(console, job.name, exported, job.repository))


def _search(run: Path, data: DataSet, request: ExportRequest, out: Output) -> DepthFamily:
    from torch import nn

    from resx.analysis.shrink.depth_family import FOLDER, family_of
    from resx.analysis.shrink.search import SearchOptions
    from resx.export.block_latency import measure_blocks
    from resx.export.graph.batchnorm_fusion import fuse

    def prepare(part: nn.Module) -> nn.Module:
        return fuse(part, target="gpu")

    out.note(f"sizes of {run}: searched once, then kept in {run / FOLDER}")
    with show_bar(out, "blocks less") as on_size:
        return family_of(
            run, data, SearchOptions(seed=request.source.seed), prepare=prepare, measure=measure_blocks, on_size=on_size
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


def deploy_best(
    address: Address,
    repository: Repository,
    members: list[Member],
    bound_ms: float,
    manner: Manner,
    *,
    dry_run: bool,
    next_step: str,
    out: Output,
) -> None:
    """Deploy the most accurate member that holds the bound, and print how it was found and what comes next."""
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
    payload: DeployedBest = {
        "family": choice.chosen.family.name, "name": choice.chosen.card.name, "version": choice.chosen.version,
        "url": str(address), "bound_ms": bound_ms, "decided_by": "measured" if choice.measured else "recorded",
        "deployed": not dry_run, "previous": done.previous if done else None,
        "canary_difference": done.canary_difference if done else None, "previous_kept": bool(done and done.kept),
        "members": [tried_as_json(one) for one in choice.tried],
    }  # fmt: skip
    out.result(payload, lambda console: show_choice(console, choice, address, done, next_step))
