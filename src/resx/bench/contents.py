"""What a benchmark's requests hold: images of the user's, the card's canary, or noise; and what a card says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from resx.bench.load import payloads
from resx.bench.load.payloads import Payloads
from resx.bench.load.wire import Target
from resx.card.card import FILE_NAME, Card
from resx.errors import ResxError, UsageError
from resx.repository.versions import Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What is sent, and whether answers are compared with what a card says."""

    repository: Repository
    """Where cards are."""
    data: Path | None = None
    """A folder of images to send."""
    check: bool | None = None
    """None: where there is a card."""
    seed: int = 0
    """Of noise."""

    def for_target(self, target: Target) -> Callable[[Target, int], Payloads]:
        """Return what makes a batch for a target.

        Raises:
            UsageError: `check` is set, and the repository has no card of the model.
        """
        behind = target.owner or target
        card = folder = None
        if self.check is not False or self.data:
            try:
                folder = self.repository.version_folder(behind.model, behind.answering)
                card = self.repository.card(behind.model, behind.answering) if (folder / FILE_NAME).exists() else None
            except UsageError:
                folder = None
        if self.check and card is None:
            raise UsageError(
                f"--check: {self.repository.root} has no card of {behind.model}; give --repository, or --no-check"
            )
        known = folder if card is not None and self.check is not False else None
        cache: dict[int, Payloads] = {}

        def make(asked: Target, batch_size: int) -> Payloads:
            if batch_size not in cache:
                cache[batch_size] = self._made(asked, batch_size, card, known)
            return cache[batch_size]

        return make

    def _made(self, target: Target, batch_size: int, card: Card | None, known: Path | None) -> Payloads:
        if target.owner is not None:
            made = payloads.image_files(target, self.data, known)
        elif self.data is not None:
            made = payloads.pictures(self.data, target.interface, batch_size, known)
        elif target.rows is not None:
            made = payloads.with_answers(payloads.unchecked_payloads(target, batch_size, self.seed), known)
        elif card is not None and known is not None:
            return payloads.canaries(card, batch_size)
        else:
            made = payloads.unchecked_payloads(target, batch_size, self.seed)
        return replace(made, reference="answers unchecked: --no-check") if self.check is False else made


def facts_of(repository: Repository, target: Target) -> dict[str, object]:
    """Return what the card says of a model's accuracy and family; nothing where there is no card."""
    try:
        card = repository.card(target.model, target.answering)
    except ResxError:
        return {}
    facts: dict[str, object] = {"precision": card.precision, "num_weights": card.num_weights}
    if card.family is not None:
        family = card.family
        facts |= {
            "family": family.name,
            "accuracy": family.accuracy,
            "kept_blocks": family.num_blocks,
            "blocks": family.whole_blocks,
            "latency_ms": family.latency_ms,
        }
    return facts
