"""Which class of a data set is which output of a model: by name, or by position where a model names none.

A model that was exported without names has `class-0`, `class-1`, ... in their place.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.errors import UsageError
from resx.text import one_line

MatchedBy: TypeAlias = Literal["name", "position"]
_NAMED = 3
"""Of the classes that differ, in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassMatch:
    """A model's output for each class of a data set."""

    outputs: npt.NDArray[np.int64]
    """[K]: the output of the data's first class, of its second, and so on."""
    by: MatchedBy

    def arrange(self, answers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return answers [N, K] with their columns in the order of the data's classes."""
        return answers[:, self.outputs]


def match_classes(
    model: str, labels: Sequence[str], num_outputs: int, data: str, classes: Sequence[str], *, by_position: bool
) -> ClassMatch:
    """Find the output of each class of the data.

    Args:
        model: for messages.
        labels: of the model's outputs; empty where it names none.
        num_outputs: of the model.
        data: for messages.
        classes: of the data.
        by_position: do not look at names.

    Raises:
        UsageError: the model and the data do not have the same classes.
    """
    named = [_plain(label) for label in labels] + [""] * (num_outputs - len(labels))
    wanted = [_plain(name) for name in classes]
    # Folders may be called class-0, class-1, ... too, and class-10 comes before class-2 there.
    is_unnamed = {*named} != {*wanted} and all(name in ("", f"class-{place}") for place, name in enumerate(named))
    if by_position or is_unnamed:
        if num_outputs != len(classes):
            raise UsageError(
                f"{data}: has {len(classes)} classes and {model} {num_outputs} outputs; use data with the model's "
                "classes"
            )
        return ClassMatch(outputs=np.arange(num_outputs), by="position")
    missing = [name for name in classes if _plain(name) not in named]
    extra = [label or f"output {place}" for place, label in enumerate(named) if label not in wanted]
    # Only where numbers agree can the order say which is which.
    remedy = "use data with the model's classes" + (
        "; if only the names differ, add --by-position" if num_outputs == len(classes) else ""
    )
    if missing or extra:
        parts = [
            f"{_few(names)} {'is' if len(names) == 1 else 'are'} in the {here} only"
            for names, here in ((missing, "data"), (extra, "model"))
            if names
        ]
        raise UsageError(f"{data}: its classes differ from {model}'s: {', '.join(parts)}; {remedy}")
    if len(named) > len(wanted):
        twice = next(name for name in named if named.count(name) > 1)
        raise UsageError(
            f"{data}: '{one_line(twice)}' names {named.count(twice)} outputs of {model}; give each its own label"
        )
    return ClassMatch(outputs=np.array([named.index(name) for name in wanted], dtype=np.int64), by="name")


def _plain(name: str) -> str:
    """Return a name in Unicode's composed form: file systems and files write one name in two ways."""
    return unicodedata.normalize("NFC", name)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{one_line(name)[:80]}'" for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
