"""Repeat a published version's checks from its files: is it what its card says, and does it compute that still?

The checks go from the cheapest to the dearest, and all are done, so that one report says everything.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resx.card import canary_rows, int8_processor, parity_result
from resx.card import card as cards
from resx.card.card import Card
from resx.card.model_card import README
from resx.card.origin import SourceArguments
from resx.card.parity_result import Parity
from resx.errors import ParityError, ResxError, UsageError
from resx.files.staging import sha256_of
from resx.machine import instruction_set
from resx.serving.client.address import Address
from resx.serving.client.client import TritonClient
from resx.serving.deployment.served_model import canary

if TYPE_CHECKING:
    from resx.export.checks.accuracy import Accuracies, Labelled
    from resx.export.reference import Exportable
    from resx.export.repetition import Runtime

_NUM_SERVED_IMAGES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check and its verdict."""

    what: str
    passed: bool
    detail: str
    skipped: bool = False
    """It could not be done; it then counts as passed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Every check of a version, and the numbers behind them."""

    checks: tuple[Check, ...]
    again: Parity | None = None
    """The file against its source, measured now; None where it could not be."""
    accuracies: Accuracies | None = None
    """None where no classes are known."""

    def verdict(self, title: str) -> ParityError | None:
        """Return the error of the first check that failed; None where all passed."""
        failed = next((check for check in self.checks if not check.passed), None)
        if failed is None:
            return None
        return ParityError(f"{title}: {failed.what}: {failed.detail}; export the model again")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledData:
    """Which images with known classes to measure accuracy on."""

    name: str = ""
    """As `resx train --data` takes it; empty: the run's own held-out images, if the source is a run."""
    num_images: int = 512


def verify_version(
    folder: Path,
    address: Address | None,
    data: LabelledData = LabelledData(),
    *,
    allowed_code: Collection[str] = (),
    on_step: Callable[[str], None] = lambda _step: None,
) -> Verification:
    """Check the files' hashes, the file's answer to the canary, the source's logits, accuracy, a server's answers.

    Args:
        folder: a version's, `model_repository/NAME/N`.
        address: of a server that has the version loaded; None leaves it out.
        data: that accuracy is measured on.
        allowed_code: modules that may be imported if the card's source is a function in them.
        on_step: told what comes next.

    Raises:
        UsageError: the version has no card, the data do not fit it, or its source is code that is not allowed; or the
            server has not loaded it.
        MissingCapability: no server answers.
    """
    card = cards.read_card(folder)
    if address is not None:
        with TritonClient(address) as client:
            client.require_loaded(folder.parent.name, int(folder.name))  # before minutes of work
    arguments = card.source.arguments and cards.named_source(card, allowed_code, named_in=folder / cards.FILE_NAME)
    on_step("compare the files' hashes")
    checks = _file_checks(folder, card)
    if not all(check.passed for check in checks):
        return Verification(checks=tuple(checks))
    from resx.runtimes.model_file import open_model

    model = open_model(folder / card.model_file, card)
    on_step("run the file's self-test")
    checks.append(_file_canary(model, card))
    checks += _file_int8_rows(model, card)
    on_step("compare with the source")
    source = "the card does not say how to load it" if arguments is None else _reload(card, arguments, folder)
    again, check = _against_source(card, model, source)
    checks.append(check)
    labelled = _find_labelled(card, source, data)
    if address is not None:
        on_step(f"ask {address}")
        real = None if labelled is None else labelled.images[:_NUM_SERVED_IMAGES]
        real = real if isinstance(source, str) else source.real.images
        checks += _served(folder, card, address, model, real)
    if labelled is None:
        return Verification(checks=tuple(checks), again=again)
    on_step(f"measure accuracy on {len(labelled)} images")
    accuracies = _accuracies(folder, card, model, source, labelled, address)
    checks.append(Check(what="accuracy drops by at most one point", passed=accuracies.passed, detail=accuracies.text))
    return Verification(checks=tuple(checks), again=again, accuracies=accuracies)


def _file_checks(folder: Path, card: Card) -> list[Check]:
    """Compare the folder's files with those that the card lists."""
    checks = [_hash(folder / name, expected) for name, expected in card.files.items()]
    checks += [
        Check(
            what=f"{name} belongs to the verified version", passed=False, detail="the card does not list it; remove it"
        )
        for name in sorted(path.name for path in folder.iterdir())
        if name not in (*card.files, card.model_file, cards.FILE_NAME, README)
    ]
    if card.unproved:
        checks.append(Check(what=f"{card.model_file} is the verified file", passed=False, detail=card.unproved))
    return checks


def _hash(path: Path, expected: str) -> Check:
    what = f"{path.name} is the verified file"
    if not path.is_file():
        return Check(what=what, passed=False, detail=f"{path} is missing")
    actual = sha256_of(path)
    return Check(what=what, passed=actual == expected, detail=f"sha256 {actual[:12]}..., card {expected[:12]}...")


def _file_canary(model: Runtime, card: Card) -> Check:
    images = canary_rows.canary_input(card.signature, card.canary.num_images)
    difference = canary_rows.canary_difference(card.canary, model(images))
    return Check(
        what="the file gives the answers recorded in its card",
        passed=difference <= card.canary.tolerance,
        detail=f"within {difference:.1e} of the scale, allowed {card.canary.tolerance:g}",
    )


def _file_int8_rows(model: Runtime, card: Card) -> list[Check]:
    """Compare an int8 file's answers with those of the processor that it was verified on."""
    here = instruction_set()
    if not int8_processor.differs(card, here) or card.int8_rows is None:
        return []
    what = f"int8 gives the same answers on {here} as where it was verified"
    try:
        size = card.signature.batch or card.max_batch_size
        difference = int8_processor.repeat_parity(card, model, max_batch_size=size, processor=here)
    except ParityError as error:
        return [Check(what=what, passed=False, detail=str(error))]
    return [Check(what=what, passed=True, detail=f"within {difference:.1e} of the scale")]


def _reload(card: Card, arguments: SourceArguments, folder: Path) -> Exportable | str:
    """Return the source with the weights that were exported, or why there is none."""
    from resx.export.repetition import reload_source
    from resx.export.request import source_base

    try:
        with contextlib.chdir(source_base(card, arguments, folder)):
            return reload_source(card, arguments)
    except ResxError as error:
        return str(error)


def _against_source(card: Card, model: Runtime, source: Exportable | str) -> tuple[Parity | None, Check]:
    """Compare with the source again, where it can be had and the export did so too."""
    what = "the file matches its source"
    if isinstance(source, str) or not card.verified:
        reason = source if isinstance(source, str) else "it was exported with --no-verify"
        return None, Check(what=what, passed=True, skipped=True, detail=reason)
    from resx.export.checks import parity
    from resx.export.repetition import repeat_parity

    try:
        again = repeat_parity(card, model, source)
    except ParityError as error:  # it answers, but not in the same shape
        return None, Check(what=what, passed=False, detail=str(error))
    except ResxError as error:
        return None, Check(what=what, passed=True, skipped=True, detail=str(error))
    return again, Check(
        what=what,
        passed=again.passed,
        detail=f"max {again.max_abs:.1e}, mean {again.mean_abs:.1e} at logits up to {again.scale:.3g}, "
        f"{parity_result.flips_text(again)}; would pass with --rtol "
        f"{parity.passing_rtol(again):g}",
    )


def _find_labelled(card: Card, source: Exportable | str, data: LabelledData) -> Labelled | None:
    """Return the images that the user named, or the source's own; None where no classes are known."""
    if data.name:
        from resx.export.checks.accuracy import load_labelled

        channels, *size = card.signature.pixel_dims
        if card.signature.resize is None or channels != 3 or size[0] != size[1]:
            raise UsageError(f"--data {data.name}: {card.name} takes {[*card.signature.input_dims]}, no square images")
        return load_labelled(
            data.name, image_size=size[0], num_classes=card.signature.num_outputs, num_images=data.num_images
        )
    return None if isinstance(source, str) else source.labelled


def _served(
    folder: Path, card: Card, address: Address, model: Runtime, real: npt.NDArray[np.uint8] | None
) -> list[Check]:
    """Compare a server's answers with the file's: on the canary, noise and real images."""
    from resx.data.photographs import photographs
    from resx.export.repetition import batches_for

    name, version = folder.parent.name, int(folder.name)
    signature = card.signature
    if real is not None:
        images = real[:_NUM_SERVED_IMAGES]
    elif signature.resize is None:
        images = np.zeros((0, *signature.pixel_dims), np.uint8)
    else:
        images = photographs(*signature.pixel_dims[1:], seed=0).images[:_NUM_SERVED_IMAGES]
    worst = 0.0
    try:
        with TritonClient(address) as client:
            difference = canary(client, name, version, card)
            interface = client.interface(name, version)
            # Where a cache would answer what an earlier check has sent, other noise.
            batches = batches_for(card, images, seed=secrets.randbits(32) if interface.has_cache else 0)
            for batch in batches:
                given = signature.as_input(batch)
                expected = model(given)
                answer = client.infer(name, interface, given, version).logits
                if answer.shape != expected.shape:
                    shapes = f"{[*answer.shape]}, the file's {[*expected.shape]}"
                    raise ParityError(f"the served answer has the shape {shapes}")
                if not np.isfinite(answer).all():
                    raise ParityError("the served answer is not finite")
                worst = max(worst, float(np.abs(answer - expected).max() / (np.abs(expected).max() or 1.0)))
    except ResxError as error:
        return [Check(what=f"{address} gives the file's answers", passed=False, detail=str(error))]
    bound = card.canary.tolerance
    detail = (
        f"within {worst:.1e} of the scale at batches of {', '.join(map(str, sorted({len(b) for b in batches})))} "
        f"of noise and of real images, self-test within {difference:.1e}; allowed {bound:g}"
    )
    return [Check(what=f"{address} gives the file's answers", passed=worst <= bound, detail=detail)]


def _accuracies(
    folder: Path, card: Card, model: Runtime, source: Exportable | str, labelled: Labelled, address: Address | None
) -> Accuracies:
    """Measure source, file and server, as far as they can be asked."""
    from resx.export.checks.accuracy import Accuracies, right_answers

    right = {}
    if not isinstance(source, str):
        right["source"] = right_answers(
            lambda images: source.logits(images), labelled, batch_size=card.signature.batch or 128
        )
    right["file"] = right_answers(
        lambda images: model(card.signature.as_input(images)), labelled, batch_size=card.max_batch_size
    )
    served = None if address is None else _served_accuracy(folder, card, address, labelled)
    if served is not None:
        right["served"] = served
    return Accuracies(images=labelled.origin, right=right)


def _served_accuracy(folder: Path, card: Card, address: Address, labelled: Labelled) -> npt.NDArray[np.bool_] | None:
    """Return None where the server does not answer: another check says so."""
    from resx.export.checks.accuracy import right_answers

    name, version = folder.parent.name, int(folder.name)
    try:
        with TritonClient(address) as client:
            interface = client.interface(name, version)
            return right_answers(
                lambda images: client.infer(name, interface, card.signature.as_input(images), version).logits,
                labelled,
                batch_size=card.max_batch_size,
            )
    except ResxError:
        return None
