"""`resx query`: ask a served model what is on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options.shared import (
    Ca,
    Cert,
    Header,
    Json,
    Key,
    MaxFileMib,
    MaxMegapixels,
    ProtocolName,
    Quiet,
    RepositoryPath,
    Url,
)
from resx.cli.output import Output, table
from resx.errors import UsageError
from resx.files.reading import set_limits

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("query")(query)


def query(
    name: Annotated[str, typer.Argument(help="A model that is loaded.")],
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or WebP files.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    version: Annotated[int, typer.Option(min=0, help="0: the newest that is loaded.")] = 0,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="Times to ask again when the connection was lost; 8 are 9 seconds.")
    ] = 0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send the files; the server decodes them (`resx export --image-endpoint`).")
    ] = False,
    repository: RepositoryPath = Path("model_repository"),
    url: Url = "",
    protocol: ProtocolName = "",
    ca: Ca = "",
    cert: Cert = "",
    key: Key = "",
    header: Header = None,
    max_megapixels: MaxMegapixels = None,
    max_file_mib: MaxFileMib = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask the server what is on each image: the most likely labels with their probabilities, or scores.

    Example: resx query resnet50 photo.jpg
    """
    from resx.cli.options.connection import address_of
    from resx.cli.views import random_weights
    from resx.repository.config_pbtxt import output_kind_of
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.client.image_queries import classify_files, classify_raw_files, load_images

    set_limits(megapixels=max_megapixels, file_mib=max_file_mib)
    address = address_of(url, protocol, Repository(repository), ca=ca, cert=cert, key=key, headers=header)
    if raw and version:
        raise UsageError("--raw, --version: the image endpoint asks the newest version; leave one of them out")
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
                f"{guess.value:.4g}" if kind == "scores" else f"{guess.value:.2%}",
            ]
            for path, guesses in zip(images, answers, strict=True)
            for place, guess in enumerate(guesses)
        ]
        console.print(table("", ["image", "label", number], rows, left=2))

    payload = {
        "model": name,
        "url": str(address),
        "output": kind,
        "random_weights": interface.has_random_weights,
        "images": entries,
    }
    out = Output(as_json=json, quiet=quiet)
    out.result(payload, show)
    random_weights.warn(out, name, is_random=interface.has_random_weights)
