"""`resx query`: ask a served model what is on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.completion import complete_model
from resx.cli.marks import show_next
from resx.cli.options.connection import OF_A_SERVER, Connection, Retries
from resx.cli.options.grouping import typed_options
from resx.cli.options.images import ImageLimits
from resx.cli.options.output import TableOptions
from resx.cli.options.repository import Version
from resx.cli.options.request_code import CodeOptions
from resx.cli.options.top import Top
from resx.cli.output import print_lines, table
from resx.cli.views import random_weights
from resx.cli.views.next_step import to_serve
from resx.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def query(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A model that is loaded, or a published one.", autocompletion=complete_model)
    ],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.")],
    server: Connection,
    code: CodeOptions,
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
    """Classify image files with a published model: the most likely labels with probabilities, or scores.

    If no server runs and none is named, the published version is computed in this process.

    Examples: resx query resnet50 photo.jpg; resx query resnet50 photo.jpg --curl
    """
    from resx.cli.steps.image_answers import AskedImages, ask_server, compute_here
    from resx.repository.versions import Repository
    from resx.serving.client.server_errors import ConnectionLost

    limits.apply()
    out, language = printing.open(), code.language()
    if version and (raw or language):
        option = "--raw" if raw else f"--{language}"
        raise UsageError(f"{option}, --version: the image endpoint uses the newest version; remove one of the two")
    if language:
        from resx.cli.steps.image_request import find_image_request
        from resx.cli.steps.request_code import write_code

        lines = write_code(find_image_request(server, name, images, top=top, language=language), language)
        printed = {"model": name, "language": language, "code": "".join(f"{line}\n" for line in lines)}
        out.result(printed, lambda console: print_lines(console, lines))
        return
    asked = AskedImages(model=name, images=images, top=top, version=version or None)
    try:
        answered = ask_server(server.address(), asked, raw=raw, retries=retries)
    except ConnectionLost as lost:
        if raw or not typed_options(context).keys().isdisjoint({"url", *OF_A_SERVER}):
            raise
        answered = compute_here(server.repository, asked, lost)
        out.note("No server runs; computed in this process.")
    kind = answered.kind
    number = "score" if kind == "scores" else "probability"
    entries: list[dict[str, Any]] = [
        {
            "image": str(path),
            "top": [{"label": guess.label, "index": guess.index, number: guess.value} for guess in guesses],
        }
        for path, guesses in zip(images, answered.guesses, strict=True)
    ]

    def show(console: Console) -> None:
        rows = [
            [
                str(path) if place == 0 else "",
                guess.label,
                f"{guess.value:.4g}" if kind == "scores" else f"{100 * guess.value:.2f}",
            ]
            for path, guesses in zip(images, answered.guesses, strict=True)
            for place, guess in enumerate(guesses)
        ]
        column = number if kind == "scores" else f"{number} %"
        console.print(table("", ["image", "label", column], rows, left=2, least=("image",)))
        here = answered.url is None
        show_next(console, to_serve(name, Repository(server.repository)) if here else server.command("bench", name))

    payload = {
        "model": name,
        "url": answered.url,
        "in_process": answered.url is None,
        "output": kind,
        "random_weights": answered.is_random,
        "images": entries,
    }
    out.result(payload, show)
    random_weights.warn(out, name, is_random=answered.is_random)
