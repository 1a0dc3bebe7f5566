"""`resx models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resx.cli.options.output import OutputOptions
from resx.cli.output import table

if TYPE_CHECKING:
    from resx.cli.results.networks import Variant


def models(printing: OutputOptions) -> None:
    """List every variant: parameters, multiply-adds, input, published figure, paper.

    Example: resx models
    """
    from resx.zoo.catalog import VARIANTS

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
        for name, variant in VARIANTS.items()
    ]
    rows = [
        [
            name,
            variant.family,
            f"{variant.num_parameters / 1e6:.2f} M",
            f"{variant.gmacs:.2f}",
            f"{variant.spec.image_size} px",
            variant.published,
            variant.paper,
        ]
        for name, variant in VARIANTS.items()
    ]
    columns = ["name", "family", "parameters", "GMACs", "input", "published", "paper"]
    printing.open().result({"models": entries}, lambda console: console.print(table("", columns, rows, left=2)))
