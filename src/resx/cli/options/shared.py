"""The flags that commands share: one spelling, one help text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer

from resx.errors import UsageError
from resx.files.reading import FILE_MIB, MEGAPIXELS, MOST_FILE_MIB, MOST_MEGAPIXELS

Word = TypeVar("Word", bound=str)


def finite(value: float | None) -> float | None:
    """Refuse infinity and what is no number; every option that takes a float has this as its callback.

    Raises:
        BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value}: give a finite number")
    return value


Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random here.")]
RepositoryPath: TypeAlias = Annotated[
    Path, typer.Option("--repository", help="The model repository.", envvar="RESX_REPOSITORY")
]
Url: TypeAlias = Annotated[
    str,
    typer.Option(
        help="host:port of the server, or grpc://, grpcs://, http://, https:// and that. "
        "Default: the one that `resx serve` runs over the repository."
    ),
]
ProtocolName: TypeAlias = Annotated[str, typer.Option("--protocol", help="grpc or http. Default: grpc.")]
Ca: TypeAlias = Annotated[str, typer.Option("--ca", metavar="FILE", help="CA of a grpcs:// or https:// server.")]
Cert: TypeAlias = Annotated[str, typer.Option("--cert", metavar="FILE", help="Our certificate, with --key.")]
Key: TypeAlias = Annotated[str, typer.Option("--key", metavar="FILE", help="Its key.")]
Header: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="'NAME: VALUE'",
        help="Sent with every request, repeatable. Secrets: RESX_HEADERS, a line each.",
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="classes=N, or a field of the variant's architecture (see `resx info NAME`). Repeatable.",
    ),
]
Shape: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME:D1,D2",
        help="Shape of an input that the model leaves open, without the batch. Repeatable.",
    ),
]
MaxMegapixels: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-megapixels",
        min=1,
        max=MOST_MEGAPIXELS,
        envvar=MEGAPIXELS,
        metavar="N",
        show_default=False,
        help="Largest image, decoded and resized. Default: 64. An image of N megapixels takes up to 16 MB of memory "
        "each, even if its file has 50 bytes: raise it only for files that you trust.",
    ),
]
MaxFileMib: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-file-mib",
        min=1,
        max=MOST_FILE_MIB,
        envvar=FILE_MIB,
        metavar="N",
        show_default=False,
        help="Largest image file or Parquet cell, in MiB. Default: 32. Memory grows with it: raise it only for files "
        "that you trust.",
    ),
]
AllowCode: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-code",
        metavar="MODULE",
        help="Run code of this module if the card names a function in it. Repeatable.",
    ),
]
Device: TypeAlias = Annotated[str, typer.Option(help="cpu or cuda.")]


def choose(option: str, value: str, known: tuple[Word, ...]) -> Word:
    """Return `value` as one of the known words.

    Raises:
        UsageError: it is none of them.
    """
    for word in known:
        if word == value:
            return word
    raise UsageError(f"{option} {value}: give one of {', '.join(known)}")
