"""How far an exported file may be from its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import typer

from resx.cli.options.validation import finite

_PANEL = "Checks"

Atol: TypeAlias = Annotated[
    float | None,
    typer.Option(
        callback=finite, metavar="X", help="Largest difference from PyTorch, absolute.", rich_help_panel=_PANEL
    ),
]
Rtol: TypeAlias = Annotated[
    float | None,
    typer.Option(
        callback=finite, metavar="X", help="Largest difference relative to the logits' scale.", rich_help_panel=_PANEL
    ),
]
NoVerify: TypeAlias = Annotated[
    bool,
    typer.Option("--no-verify", metavar="", help="Skip the parity checks; the card says so.", rich_help_panel=_PANEL),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """How far the file may be from its source."""

    atol: Atol = None
    rtol: Rtol = None
    no_verify: NoVerify = False
