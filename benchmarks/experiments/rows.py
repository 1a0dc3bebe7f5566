"""What was measured, a row for each seed and variant, kept in a file that a run goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydantic
from pydantic import Field

from resx.errors import UsageError
from resx.files.json_faults import explain_fault
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.files.staging import write_atomic
from resx.values import FrozenModel


class Row(FrozenModel):
    """One network, trained from one seed, and what was measured of it."""

    experiment: str
    network: str
    data: str
    recipe: str
    epochs: int
    seed: int
    loss: float | None = None
    """Mean over the last epoch's training steps; None where the training diverged."""
    training_error: float | None = None
    """Share of the training images, as they are, that the trained network gets wrong."""
    accuracy: float | None = None
    """Held-out, after the last epoch."""
    seconds: float = 0.0
    """Processor time of the training, which waiting for other programs does not lengthen."""
    values: dict[str, float] = Field(default_factory=dict)
    """What the experiment alone measures."""
    series: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """The same, several numbers each: what figures are drawn from."""

    @property
    def key(self) -> str:
        """What decides the row, in words."""
        return " / ".join((*self.variant, f"seed {self.seed}"))

    @property
    def variant(self) -> tuple[str, ...]:
        """Everything but the seed."""
        return self.experiment, self.network, self.data, self.recipe, f"{self.epochs} epochs"

    @property
    def diverged(self) -> bool:
        """Whether the training ended in numbers that are not finite."""
        return self.loss is None

    def measure(self, name: str) -> float | None:
        """Return one of the row's measurements by its name; None where it has none."""
        if name in ("loss", "training_error", "accuracy", "seconds"):
            found: float | None = getattr(self, name)
            return found
        return self.values.get(name)


class _File(FrozenModel):
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsFile:
    """The file of all rows. One process writes it at a time; rows of others are never lost, as it is read again."""

    path: Path

    def read(self) -> dict[str, Row]:
        """Return the rows by their keys.

        Raises:
            UsageError: the file does not hold rows.
        """
        if not self.path.exists():
            return {}
        content = read_bounded(self.path, MAX_TEXT_BYTES)
        try:
            return {row.key: row for row in _File.model_validate_json(content).rows}
        except pydantic.ValidationError as error:
            raise UsageError(f"{self.path}: {explain_fault(error, content, 'restore or delete it')}") from error

    def add(self, row: Row) -> None:
        """Keep a row, in the place of one with the same key; rows are in the order of their keys, one a line."""
        rows = self.read() | {row.key: row}
        lines = [json.dumps(rows[key].model_dump(mode="json", exclude_defaults=True)) for key in sorted(rows)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, '{"rows": [\n' + ",\n".join(lines) + "\n]}\n")


def of_experiment(rows: Iterable[Row], name: str) -> list[Row]:
    """Return the rows of one experiment."""
    return [row for row in rows if row.experiment == name]


def by_variant(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each variant, by seed; variants in the order of their first row."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.variant, []).append(row)
    for group in groups.values():
        yield sorted(group, key=lambda row: row.seed)
