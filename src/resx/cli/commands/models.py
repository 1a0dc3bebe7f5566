"""`resx models`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from resx.cli.completion import complete_variant
from resx.cli.options.output import TableOptions
from resx.cli.output import table
from resx.errors import UsageError, nearest

if TYPE_CHECKING:
    from resx.cli.results.networks import Variant


def models(
    printing: TableOptions,
    pattern: Annotated[
        str,
        typer.Argument(
            help="Pattern of names, such as '*50*'. Default: all variants.",
            show_default=False,
            autocompletion=complete_variant,
        ),
    ] = "",
) -> None:
    """List the variants (networks by name): parameters, multiply-adds, input, published result, paper.

    Examples: resx models; resx models 'densenet*'
    """
    from resx.zoo.catalog import VARIANTS

    chosen = {name: VARIANTS[name] for name in matching(pattern or "*", VARIANTS)}
    entries: list[Variant] = [
        {
            "name": name,
            "family": variant.family,
            "parameters": variant.num_parameters,
            "gmacs": variant.gmacs,
            "image_size": variant.spec.image_size,
            "classes": variant.spec.classes,
            "top1_percent": variant.top1_percent,
            "error_percent": variant.error_percent,
            "paper": variant.paper,
        }
        for name, variant in chosen.items()
    ]
    rows = [
        [
            name,
            variant.family,
            variant.published,
            variant.paper,
            f"{variant.num_parameters / 1e6:.2f}",
            f"{variant.gmacs:.2f}",
            str(variant.spec.image_size),
        ]
        for name, variant in chosen.items()
    ]
    columns = ["name", "family", "published", "paper", "Mparams", "GMACs", "input px"]
    made = table("", columns, rows, left=4, least=("paper", "family"))
    printing.open().result({"models": entries}, lambda console: console.print(made))


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a glob matches, whatever the case.

    Raises:
        UsageError: there is none.
    """
    known = list(names)
    if found := [name for name in known if fnmatch.fnmatchcase(name, pattern.lower())]:
        return found
    bare = "".join(character for character in pattern.lower() if character not in "*?[]!")
    raise UsageError(f"{pattern}: no variant matches{nearest(bare, known) or '; `resx models` lists them all'}")
