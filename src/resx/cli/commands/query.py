"""`resx query`: ask a served model what is on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.marks import show_next
from resx.cli.options.connection import Connection, Retries
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.repository import Version
from resx.cli.options.top import Top
from resx.cli.output import table
from resx.cli.views import random_weights
from resx.cli.views.next_step import to_measure
from resx.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def query(
    name: Annotated[str, typer.Argument(help="A model that is loaded.")],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.")],
    server: Connection,
    printing: TableOptions,
    limits: ImageLimits,
    top: Top = 5,
    version: Version = 0,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", metavar="", help="Send the files; the server decodes them (`resx export --image-endpoint`)."
        ),
    ] = False,
    retries: Retries = 0,
) -> None:
    """Ask the server what is on each image: the most likely labels with their probabilities, or scores.

    Example: resx query resnet50 photo.jpg
    """
    from resx.repository.config_pbtxt import output_kind_of
    from resx.serving.client.client import TritonClient
    from resx.serving.client.image_queries import classify_files, classify_raw_files, load_images

    limits.apply()
    address = server.address()
    if raw and version:
        raise UsageError("--raw, --version: the image endpoint uses the newest version; remove one of the two")
    decoded = [] if raw else load_images(images)
    with TritonClient(address, retries=retries) as client:
        interface = client.interface(name, version or None)
        kind = output_kind_of(interface.parameters)
        if raw:
            answers = classify_raw_files(client, name, images, top=top)
        else:
            answers = classify_files(client, name, decoded, top=top, version=version or None, names=images)
    number = "score" if kind == "scores" else "probability"
    entries: list[dict[str, Any]] = [
        {
            "image": str(path),
            "top": [{"label": guess.label, "index": guess.index, number: guess.value} for guess in guesses],
        }
        for path, guesses in zip(images, answers, strict=True)
    ]

    def show(console: Console) -> None:
        rows = [
            [
                str(path) if place == 0 else "",
                guess.label,
                f"{guess.value:.4g}" if kind == "scores" else f"{100 * guess.value:.2f}",
            ]
            for path, guesses in zip(images, answers, strict=True)
            for place, guess in enumerate(guesses)
        ]
        column = number if kind == "scores" else f"{number} %"
        console.print(table("", ["image", "label", column], rows, left=2, least=("image",)))
        show_next(console, to_measure(name, server.repository, server.url))

    payload = {
        "model": name,
        "url": str(address),
        "output": kind,
        "random_weights": interface.has_random_weights,
        "images": entries,
    }
    out = printing.open()
    out.result(payload, show)
    random_weights.warn(out, name, is_random=interface.has_random_weights)
