"""A request as code, in place of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeAlias

import typer

from resx.errors import UsageError

Language: TypeAlias = Literal["curl", "python", "javascript"]
LANGUAGES: tuple[Language, ...] = ("curl", "python", "javascript")

_option = partial(typer.Option, rich_help_panel="Code")

Curl: TypeAlias = Annotated[
    bool, _option("--curl", metavar="", help="Print the request as a curl command instead of sending it.")
]
Python: TypeAlias = Annotated[
    bool, _option("--python", metavar="", help="Print it as Python that needs only the standard library.")
]
JavaScript: TypeAlias = Annotated[
    bool, _option("--javascript", metavar="", help="Print it as JavaScript for Node 18 or later.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeOptions:
    """Which language, if any."""

    curl: Curl = False
    python: Python = False
    javascript: JavaScript = False

    def language(self) -> Language | None:
        """Return the one that was asked for, or None.

        Raises:
            UsageError: several were.
        """
        asked = [language for language in LANGUAGES if getattr(self, language)]
        if len(asked) > 1:
            raise UsageError(f"{', '.join(f'--{language}' for language in asked)}: choose one language")
        return asked[0] if asked else None
