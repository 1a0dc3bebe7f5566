"""`resx compare`: export each form aside, measure them in rounds, ask them the same images, publish the one picked.

Forms are made as `resx export` makes them, in repositories that are deleted at the end; only what is picked is
published. The cache of exports keeps the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.engine import FormatOptions
from resx.cli.options.evaluation import ImagesWanted
from resx.cli.output import Live, Output
from resx.cli.steps.evaluated_models import Asking
from resx.cli.steps.export_formats import ExportJob, Made, make, reuse
from resx.cli.steps.tuning_candidates import FileWishes
from resx.errors import ResxError, UsageError
from resx.text import join_lines

if TYPE_CHECKING:
    from resx.analysis.classification.evaluation import ImagesUsed
    from resx.bench.exports.comparison import ExportComparison, Form, Picked
    from resx.bench.exports.measurement import MeasuringPlan
    from resx.card.kinds import Precision
    from resx.card.origin import SourceArguments
    from resx.card.runtime import RuntimeName
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.versions import Repository
    from resx.scoring.evaluation.evaluating import Evaluated
    from resx.scoring.evaluation.images import EvaluationImages

NO_IMAGES = "none"
"""As --data: measure no accuracy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonJob:
    """What to compare, and how."""

    text: str
    """As the user named it."""
    source: SourceArguments
    name: str
    """In the repository."""
    wishes: FileWishes
    max_batch_size: int
    plan: MeasuringPlan
    images: ImagesWanted
    asking: Asking
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedForms:
    """A comparison, and the files behind its forms; they are deleted when it is over."""

    comparison: ExportComparison
    made: dict[str, Made]
    """By the forms' names."""
    first_error: ResxError | None
    """Of the exports."""


def compare_forms(job: ComparisonJob, scratch: Path, out: Output) -> ComparedForms:
    """Export every form into `scratch`, measure them and ask them the images.

    Raises:
        UsageError: the source, the data or the words for forms cannot be used.
    """
    with out.live() as live, contextlib.ExitStack() as held:
        images = _load_images(job, held, live, out)
        forms, made, first_error = _export(job, scratch, live)
        forms = _measure(forms, made, job, live)
        if images is not None:
            forms = _evaluate(forms, made, images, job, live)
    return ComparedForms(
        comparison=_summarize(forms, made, job, images.used if images else None), made=made, first_error=first_error
    )


def publish_picked(
    found: ComparedForms,
    job: ComparisonJob,
    repository: Repository,
    serving: ServingOptions,
    picked: Form,
    conditions: str,
) -> Picked:
    """Publish a form's files as the next version; nothing is, if the newest version is that already.

    Raises:
        UsageError: the model's versions have another interface.
    """
    from resx.bench.exports.comparison import Picked
    from resx.repository.publishing import publish_kept

    made = found.made[picked.name]
    _, published = publish_kept(repository, (made.file.parent, made.card), serving, name=job.name, command=job.command)
    return Picked(conditions=conditions, form=picked.name, name=job.name, version=published.version)


def _load_images(job: ComparisonJob, held: contextlib.ExitStack, live: Live, out: Output) -> EvaluationImages | None:
    """Load what accuracy is measured on, before anything takes long; nothing where no data are named or known."""
    from resx.scoring.evaluation.comparing import load_asked, match_model
    from resx.scoring.evaluation.opening import open_model
    from resx.zoo.spec import SPEC_FILE

    is_run = (Path(job.source.source) / SPEC_FILE).is_file()
    if job.images.data == NO_IMAGES or not (job.images.data or is_run):
        return None
    live.begin("load the images")
    text = job.source.source if is_run else job.text
    opened = open_model(text, job.asking.places(is_alone=True), held)
    images = load_asked([opened], job.images.asked(), out.note)
    match_model(opened, images, job.images.asked())
    return images


def _export(job: ComparisonJob, scratch: Path, live: Live) -> tuple[list[Form], dict[str, Made], ResxError | None]:
    forms: list[Form] = []
    first_error: ResxError | None = None
    made: dict[str, Made] = {}
    for runtime, precision in job.wishes.pairs([]):
        name = f"{runtime} {precision}"
        live.begin(f"export {name}")
        try:
            found = _export_one(job, runtime, precision, scratch, partial(_tell, live, name))
        except ResxError as error:
            if isinstance(error, UsageError) and not forms:
                raise  # the source itself cannot be used
            live.finish(failed=True)
            first_error = first_error or error
            forms.append(_failed(runtime, precision, str(error)))
            continue
        made[name] = found
        forms.append(_form(runtime, precision, found))
    return forms, made, first_error


def _tell(live: Live, name: str, step: str) -> None:
    live.begin(f"export {name}: {step}")


def _export_one(
    job: ComparisonJob, runtime: RuntimeName, precision: Precision, scratch: Path, on_step: Callable[[str], None]
) -> Made:
    from resx.export.combinations import require_computable
    from resx.export.request import form_request
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.versions import Repository

    request = form_request(
        job.source, runtime, precision, max_batch_size=job.max_batch_size, calibrate=job.wishes.calibrate
    )
    require_computable(request.combination)
    one = ExportJob(
        request=request,
        format=FormatOptions(),
        serving=ServingOptions(),
        repository=Repository(scratch / f"{runtime}-{precision}"),
        name=job.name,
        command=job.command,
    )
    return reuse(one) or make(one, on_step)


def _form(runtime: RuntimeName, precision: Precision, made: Made) -> Form:
    from resx.bench.exports.comparison import Form

    return Form(
        name=f"{runtime} {precision}",
        runtime=runtime,
        precision=precision,
        size_bytes=sum((made.file.parent / name).stat().st_size for name in made.card.files),
        parity=made.card.steps[-1] if made.card.steps else None,
    )


def _failed(runtime: RuntimeName, precision: Precision, reason: str) -> Form:
    from resx.bench.exports.comparison import Form

    return Form(name=f"{runtime} {precision}", runtime=runtime, precision=precision, failed=join_lines(reason))


def _measure(forms: Sequence[Form], made: dict[str, Made], job: ComparisonJob, live: Live) -> list[Form]:
    from resx.bench.exports.measurement import FormFile, measure_forms

    if not made:
        return list(forms)
    files = [FormFile(name=name, card=one.card, folder=one.file.parent) for name, one in made.items()]
    live.begin(
        step
        := f"measure {len(files)} form{'s' * (len(files) > 1)}, {job.plan.rounds} round{'s' * (job.plan.rounds > 1)}"
    )
    speeds = measure_forms(files, job.plan, lambda done, total: live.begin(f"{step}: {done} of {total} measurements"))
    by_name = dict(zip(made, speeds, strict=True))

    def measured(form: Form) -> Form:
        speed = by_name.get(form.name)
        if isinstance(speed, str):
            return _failed(form.runtime, form.precision, speed)
        return form.model_copy(update={"speed": speed})

    return [measured(form) for form in forms]


def _evaluate(
    forms: Sequence[Form], made: dict[str, Made], images: EvaluationImages, job: ComparisonJob, live: Live
) -> list[Form]:
    """Ask each measured form every image, and count what changes from the first fp32 form to the others."""
    from resx.bench.exports.comparison import FormFlips
    from resx.scoring.evaluation.comparing import compare_found

    answers: dict[str, Evaluated] = {}
    found: list[Form] = []
    for form in forms:
        try:
            if not form.failed:
                answers[form.name] = _ask(form.name, made[form.name], images, job, live)
            found.append(form)
        except ResxError as error:
            live.finish(failed=True)
            found.append(_failed(form.runtime, form.precision, str(error)))
    base = next((form.name for form in found if form.precision == "fp32" and form.name in answers), None)

    def with_figures(form: Form) -> Form:
        if form.name not in answers:
            return form
        answered, flips = answers[form.name], None
        if base is not None and form.name != base:
            flips = FormFlips.of(compare_found([answers[base], answered], images))
        return form.model_copy(update={"accuracy": answered.evaluation.top1, "flips": flips})

    return [with_figures(form) for form in found]


def _ask(name: str, made: Made, images: EvaluationImages, job: ComparisonJob, live: Live) -> Evaluated:
    from resx.repository.versions import Repository
    from resx.scoring.evaluation.comparing import evaluate_model, match_model
    from resx.scoring.evaluation.opening import Opened
    from resx.scoring.evaluation.published_subjects import open_version

    version_folder = made.file.parent
    repository = Repository(version_folder.parent.parent)
    model = Opened(subject=replace(open_version(repository, job.name, made.version), title=name))
    return evaluate_model(model, images, match_model(model, images, job.images.asked()), live.begin)


def _summarize(
    forms: Sequence[Form], made: dict[str, Made], job: ComparisonJob, images: ImagesUsed | None
) -> ExportComparison:
    from resx._version import __version__
    from resx.bench.exports.comparison import ExportComparison, best_of, mark_front
    from resx.machine import processor, usable_cores

    marked, front_by = mark_front(forms)
    best = best_of(marked)
    return ExportComparison(
        source=job.text,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=job.command,
        resx=__version__,
        processor=processor(),
        cores=usable_cores(),
        rounds=job.plan.rounds,
        duration_s=job.plan.duration_s,
        random_weights=any(one.card.source.is_random for one in made.values()),
        images=images,
        forms=marked,
        front_by=front_by,
        best=best.name if best else None,
    )
