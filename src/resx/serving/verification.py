"""Repeat a published version's checks from its files: is it what its card says, and does it compute that still?

The checks go from the cheapest to the dearest, and all are done, so that one report says everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resx.errors import ParityError, ResxError
from resx.export import card as cards
from resx.export.card import Card
from resx.files import sha256_of
from resx.serving.client import Address, TritonClient
from resx.serving.deploy import canary


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check and its verdict."""

    what: str
    passed: bool
    detail: str
    skipped: bool = False
    """It could not be done; it then counts as passed."""


def verify_version(
    folder: Path, address: Address | None, *, on_step: Callable[[str], None] = lambda _step: None
) -> list[Check]:
    """Check the files' hashes, the file's answer to the canary, the source's logits, and a server's answers.

    Args:
        folder: a version's, `model_repository/NAME/N`.
        address: of a server that has the version loaded; None leaves it out.
        on_step: told what comes next.

    Raises:
        UsageError: the version has no card.
    """
    card = cards.read_card(folder)
    on_step("compare the files' hashes")
    checks = [_hash(folder / name, expected) for name, expected in card.files.items()]
    if not all(check.passed for check in checks):
        return checks
    on_step("ask the file the canary")
    checks.append(_file_canary(folder, card))
    on_step("compare with the source")
    checks.append(_source(folder, card))
    if address is not None:
        on_step(f"ask {address}")
        checks += _served(folder, card, address)
    return checks


def _hash(path: Path, expected: str) -> Check:
    what = f"{path.name} is the verified file"
    if not path.is_file():
        return Check(what=what, passed=False, detail=f"{path} is missing")
    actual = sha256_of(path)
    return Check(what=what, passed=actual == expected, detail=f"sha256 {actual[:12]}..., card {expected[:12]}...")


def _file_canary(folder: Path, card: Card) -> Check:
    from resx.export.runtimes import open_model

    images = cards.canary_input(card.signature, card.canary.num_images)
    difference = cards.canary_difference(card.canary, open_model(folder / card.model_file, card)(images))
    return Check(
        what="the file answers the canary as its card says",
        passed=difference <= card.canary.tolerance,
        detail=f"within {difference:.1e} of the scale, allowed {card.canary.tolerance:g}",
    )


def _source(folder: Path, card: Card) -> Check:
    """Compare with eager PyTorch again, where the source can be had and still has the same weights."""
    what = "the file computes what its source computes"
    if card.source.arguments is None or not card.verified:
        reason = "the card does not say how to load it" if card.verified else "it was exported with --no-verify"
        return Check(what=what, passed=True, skipped=True, detail=reason)
    from resx.export.repetition import repeated_parity

    try:
        again = repeated_parity(card, folder / card.model_file)
    except ParityError as error:  # it answers, but not in the same shape
        return Check(what=what, passed=False, detail=str(error))
    except ResxError as error:
        return Check(what=what, passed=True, skipped=True, detail=str(error))
    return Check(
        what=what,
        passed=again.passed,
        detail=f"max {again.max_abs:.1e}, mean {again.mean_abs:.1e} at logits up to {again.scale:.3g}, "
        f"top-1 agreement {again.top1_agreement:.1%}, {again.num_images} images",
    )


def _served(folder: Path, card: Card, address: Address) -> list[Check]:
    """Compare a server's answers with the file's, on the canary and on batches of noise."""
    from resx.export.runtimes import open_model

    name, version = folder.parent.name, int(folder.name)
    signature, model = card.signature, open_model(folder / card.model_file, card)
    random = np.random.default_rng(0)
    sizes = [signature.batch] if signature.batch else sorted({1, 2, card.max_batch_size})
    worst = 0.0
    try:
        with TritonClient(address) as client:
            difference = canary(client, name, version, card)
            interface = client.interface(name, version)
            for size in sizes:
                batch = signature.as_input(random.integers(0, 256, (size, *signature.input_dims), dtype=np.uint8))
                expected = model(batch)
                answer = client.infer(name, interface, batch, version).logits
                worst = max(worst, float(np.abs(answer - expected).max() / np.abs(expected).max()))
    except ResxError as error:
        return [Check(what=f"{address} answers as the file", passed=False, detail=str(error))]
    bound = card.canary.tolerance
    detail = (
        f"within {worst:.1e} of the scale at batches of {', '.join(map(str, sizes))}, "
        f"canary within {difference:.1e}; "
        f"allowed {bound:g}"
    )
    return [Check(what=f"{address} answers as the file", passed=worst <= bound, detail=detail)]
