"""Values of a call, checked as the commands check what is typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from resx.errors import UsageError


@contextlib.contextmanager
def refusals_in_one_line() -> Iterator[None]:
    """Raise what pydantic says of a value that is made meanwhile as one line.

    It raises:
        UsageError: a value is out of its range or of another type.
    """
    import pydantic

    try:
        yield
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def require_at_least(least: int, **values: int) -> None:
    """Check whole numbers by the names of their arguments.

    Raises:
        UsageError: one is smaller.
    """
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name}={value}: give {least} or more")
