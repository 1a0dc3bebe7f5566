"""The files that `resx tune` chooses from: versions of the model, and exports that are made for the search.

An export for the search goes through the same pipeline as `resx export`, parity included, into a folder that is deleted
at the end; only what is chosen is published. The cache of exports keeps the others for the next search.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.validation import choose
from resx.errors import ExportError, ParityError, UsageError
from resx.text import one_line

if TYPE_CHECKING:
    from resx.card.card import Card
    from resx.card.kinds import Precision
    from resx.card.runtime import RuntimeName
    from resx.repository.versions import Repository
    from resx.serving.deployment.tuned_configuration import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class FileWishes:
    """What may compute the model; nothing named: what its versions are."""

    runtimes: tuple[RuntimeName, ...] = ()
    precisions: tuple[Precision, ...] = ()
    calibrate: str = ""
    """Data for int8."""

    @property
    def names_some(self) -> bool:
        """Whether the user said what to search."""
        return bool(self.runtimes or self.precisions)

    def pairs(self, published: list[tuple[RuntimeName, Precision]]) -> list[tuple[RuntimeName, Precision]]:
        """Return each runtime and precision to search; those of `published` stand for what was not named.

        Raises:
            UsageError: a runtime or precision that was named goes with nothing else that was.
        """
        from resx.export.combinations import Combination, usual_runtime

        precisions = self.precisions or tuple(dict.fromkeys(precision for _, precision in published))
        runtimes = self.runtimes or tuple(
            dict.fromkeys(
                [*(runtime for runtime, _ in published), *(usual_runtime(precision, "cpu") for precision in precisions)]
            )
        )
        found: list[tuple[RuntimeName, Precision]] = []
        refused: dict[str, UsageError] = {}
        for precision in precisions:
            for runtime in runtimes:
                try:
                    Combination(runtime=runtime, precision=precision, target="cpu")
                except UsageError as error:
                    refused |= dict.fromkeys((runtime, precision), error)
                else:
                    found.append((runtime, precision))
        fitting = {word for pair in found for word in pair}
        if lone := [word for word in (*self.runtimes, *self.precisions) if word not in fitting]:
            raise refused[lone[0]]
        return found


def read_wishes(runtimes: str, precisions: str, calibrate: str) -> FileWishes:
    """Read what was typed, as `onnxruntime,openvino` and `fp32,bf16`.

    Raises:
        UsageError: a word is no runtime or precision, or there is data and no int8.
    """
    from typing import get_args

    from resx.card.kinds import Precision
    from resx.card.runtime import RUNTIMES

    known: tuple[Precision, ...] = get_args(Precision)
    wishes = FileWishes(
        runtimes=tuple(choose("--runtimes", word, RUNTIMES) for word in _words(runtimes)),
        precisions=tuple(choose("--precisions", word, known) for word in _words(precisions)),
        calibrate=calibrate,
    )
    if calibrate and "int8" not in wishes.precisions:
        raise UsageError(f"--calibrate {calibrate}: is for int8; add it to --precisions")
    return wishes


def published_candidates(repository: Repository, name: str, answering: int) -> list[Candidate]:
    """Return the version that answers, and the newest verified one of each other runtime and precision.

    Those of other weights are left out, and those without a card, whose answers nobody can check.
    """
    from resx.serving.deployment.tuned_configuration import Candidate

    now = Candidate(repository=repository, name=name, version=answering)
    source = now.card.source.weights_sha256
    found = {now.key[1:]: now}
    for version in reversed(repository.versions(name)):
        if not repository.has_card(name, version):
            continue
        other = Candidate(repository=repository, name=name, version=version)
        if other.card.verified and other.card.source.weights_sha256 == source:
            found.setdefault(other.key[1:], other)
    return sorted(found.values(), key=lambda candidate: candidate.version)


def wanted_candidates(
    published: list[Candidate],
    answering: int,
    wishes: FileWishes,
    scratch: Path,
    *,
    on_step: Callable[[str], None],
    on_left_out: Callable[[str], None],
) -> tuple[Candidate, ...]:
    """Return the candidates that were asked for; what no version is, is exported into `scratch`.

    The version that answers is among them, as the others are compared with it.

    Args:
        published: as `published_candidates` gives them.
        answering: version.
        wishes: what was asked for.
        scratch: a folder for exports.
        on_step: told of each step of an export.
        on_left_out: told of each that failed parity, and why.

    Raises:
        UsageError: what was asked for does not go together, or the model's versions are engines.
        MissingCapability: this machine lacks what computes it.
    """
    if not wishes.names_some:
        return tuple(published)
    now = next(candidate for candidate in published if candidate.version == answering)
    card = now.card
    if card.engine is not None or card.accelerator is not None:
        raise UsageError(f"{now.name}: its versions run on a GPU; remove --runtimes and --precisions")
    there = {(candidate.card.runtime_name, candidate.card.precision): candidate for candidate in published}
    found = {now.key: now}
    for runtime, precision in wishes.pairs(list(there)):
        candidate = there.get((runtime, precision))
        if candidate is None:
            try:
                candidate = _export(now, card, runtime, precision, wishes, scratch, on_step)
            except (ParityError, ExportError) as error:
                on_left_out(f"{runtime} {precision}: skipped: {one_line(str(error))}")
                continue
        found[candidate.key] = candidate
    return tuple(found.values())


def _export(
    now: Candidate,
    card: Card,
    runtime: RuntimeName,
    precision: Precision,
    wishes: FileWishes,
    scratch: Path,
    on_step: Callable[[str], None],
) -> Candidate:
    from resx.card.card import FILE_NAME, named_source
    from resx.cli.options.engine import FormatOptions
    from resx.cli.steps.export_formats import ExportJob, make, reuse
    from resx.export.combinations import require_computable
    from resx.export.request import form_request
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.versions import Repository
    from resx.serving.deployment.tuned_configuration import Candidate

    folder = now.repository.version_folder(now.name, now.version)
    request = form_request(
        named_source(card, [], named_in=folder / FILE_NAME),
        runtime,
        precision,
        input_type=card.input,
        max_batch_size=card.max_batch_size,
        calibrate=wishes.calibrate,
    )
    require_computable(request.combination)
    on_step(f"export for {runtime} in {precision}")
    job = ExportJob(
        request=request,
        format=FormatOptions(),
        serving=ServingOptions(),
        repository=Repository(scratch / f"{runtime}-{precision}"),
        name=now.name,
        command=shlex.join(["resx", *sys.argv[1:]]),
    )
    made = reuse(job) or make(job, on_step)
    return Candidate(repository=job.repository, name=now.name, version=made.version or 1, is_published=False)


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
