"""Checks of what was typed for an option."""

from __future__ import annotations

import math
from collections.abc import Callable

import typer

from resx.names import choose as choose


def finite(value: float | None) -> float | None:
    """Refuse infinity and what is no number; every option that takes a float has this as its callback.

    Raises:
        BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value}: give a finite number")
    return value


def within(low: int, high: int) -> Callable[[int | None], int | None]:
    """Return a callback for bounds that are too long for a column of the help.

    It raises:
        BadParameter: the value is out of bounds.
    """

    def check(value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            raise typer.BadParameter(f"{value} is not in the range {low}<=x<={high}.")
        return value

    return check
