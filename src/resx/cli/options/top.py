"""How many classes are given for an image."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Top: TypeAlias = Annotated[int, typer.Option(min=1, metavar="N", help="Classes per image, at most all of the model's.")]
