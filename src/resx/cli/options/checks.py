"""How far an exported file may be from its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeAlias

import typer

from resx.cli.options.validation import finite

_option = partial(typer.Option, rich_help_panel="Checks")

Atol: TypeAlias = Annotated[
    float | None, _option(callback=finite, metavar="X", help="Largest difference from PyTorch, absolute.")
]
Rtol: TypeAlias = Annotated[
    float | None, _option(callback=finite, metavar="X", help="Largest difference relative to the logits' scale.")
]
NoVerify: TypeAlias = Annotated[
    bool, _option("--no-verify", metavar="", help="Skip the parity checks; the card says so.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """How far the file may be from its source."""

    atol: Atol = None
    rtol: Rtol = None
    no_verify: NoVerify = False
