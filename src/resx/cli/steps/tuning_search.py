"""The search of `resx tune`: what its files can be, what was measured, and the best setting deployed."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.output import Output
from resx.cli.steps.tuning_candidates import FileWishes, published_candidates, wanted_candidates
from resx.cli.views.tuning import trial_text
from resx.errors import UsageError
from resx.files.reading import read_text

if TYPE_CHECKING:
    from resx.bench.tuning.trials import Bench, Search
    from resx.bench.tuning.tuning import TuningResult
    from resx.card.tuning import Tuning
    from resx.repository.versions import Repository
    from resx.serving.client.address import Address
    from resx.serving.client.client import TritonClient


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningJob:
    """A model to tune, and how."""

    address: Address
    repository: Repository
    name: str
    search: Search
    wishes: FileWishes
    dry_run: bool
    plot: Path | None
    """Where a figure of the trials goes; None: nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningOutcome:
    """What a search found."""

    evidence: Tuning
    better: bool
    """Whether the best setting is significantly better than the current one."""
    version: int
    """That the best setting was deployed as; 0: it was not."""


def search_settings(out: Output, job: TuningJob, scratch: Path) -> TuningOutcome:
    """Measure the settings, draw the figure, and deploy the best one if it is better and this is no dry run.

    Args:
        out: told what is done.
        job: what to tune, and how.
        scratch: folder for exports that are made for the search; the caller deletes it.

    Raises:
        UsageError: the model has no card, or what is wished for does not go together.
        ResxError: no setting could be measured.
        ObjectiveMissed: the objective holds under none.
    """
    from resx.bench.tuning.chart import tuning_figure
    from resx.figures import draw_figure
    from resx.serving.client.client import TritonClient

    config_before = _config(job.repository, job.name)
    with TritonClient(job.address) as client:
        bench = _bench(out, job, client, scratch)
        found = _measure(out, bench)
        evidence = _evidence(job.search, found, config_before)
        if job.plot is not None:
            draw_figure(tuning_figure(job.name, evidence), job.plot)
        better = found.is_better(job.search.objective)
        version = _deploy(out, bench, found, evidence) if better and not job.dry_run else 0
    return TuningOutcome(evidence=evidence, better=better, version=version)


def _config(repository: Repository, name: str) -> str:
    from resx.card import card as cards
    from resx.repository import config_rules
    from resx.repository.config_pbtxt import CONFIG_FILE

    folder = repository.version_folder(name)
    if not (folder / cards.FILE_NAME).is_file() or not (repository.root / name / CONFIG_FILE).is_file():
        raise UsageError(f"{name}: has no card, so answers cannot be checked; export the model with resx")
    config_rules.read_checked(repository.root, name)
    return read_text(repository.root / name / CONFIG_FILE)


def _bench(out: Output, job: TuningJob, client: TritonClient, scratch: Path) -> Bench:
    """Find what may be served, exporting what is missing."""
    from resx.bench.tuning.trials import Bench
    from resx.serving.deployment.tuned_configuration import setting_of

    repository, name = job.repository, job.name
    loaded = client.model_versions().get(name, [])
    before = setting_of(repository, name, loaded[-1] if loaded else repository.versions(name)[-1])
    with out.steps() as step:
        candidates = wanted_candidates(
            published_candidates(repository, name, before.version),
            before.version,
            job.wishes,
            scratch,
            on_step=step,
            on_left_out=out.note,
        )
    return Bench(
        client=client,
        address=job.address,
        repository=repository,
        name=name,
        before=before,
        search=job.search,
        candidates=candidates,
    )


def _measure(out: Output, bench: Bench) -> TuningResult:
    from resx.bench.tuning import tuning
    from resx.serving.deployment.served_model import alone

    card = bench.repository.card(bench.name, bench.before.version)
    with out.live() as tell, alone(bench.repository, bench.name):
        return tuning.tune(
            bench,
            card.max_batch_size,
            card.canary.num_images,
            on_trial=lambda place, setting: tell.begin(trial_text(place, setting, len(bench.candidates))),
        )


def _evidence(search: Search, found: TuningResult, config_before: str) -> Tuning:
    from resx.card.tuning import Tuning
    from resx.machine import processor

    return Tuning(
        objective=search.objective,
        concurrency=search.concurrency,
        cores=search.cores,
        client_elsewhere=search.client_elsewhere,
        slo=str(search.slo or ""),
        processor=processor(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["resx", *sys.argv[1:]]),
        before=found.before,
        config_before=config_before,
        chosen=found.best,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        num_pairs=found.num_pairs,
        trials=found.trials,
    )


def _deploy(out: Output, bench: Bench, found: TuningResult, evidence: Tuning) -> int:
    """Publish the best setting as a version and let it answer; return its number."""
    from resx.serving.deployment.tuned_configuration import put_in_force

    with out.steps() as step:
        step("deploy the best setting")
        chosen = bench.candidate(found.best)
        return put_in_force(bench.client, bench.repository, chosen, evidence, threads=found.threads_matter).version
