"""How large an image may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from resx.cli.options.grouping import rare_option
from resx.files.reading import FILE_MIB, MEGAPIXELS, MOST_FILE_MIB, MOST_MEGAPIXELS, set_limits

MaxMegapixels: TypeAlias = Annotated[
    int | None,
    rare_option(
        "--max-megapixels",
        min=1,
        max=MOST_MEGAPIXELS,
        envvar=MEGAPIXELS,
        metavar="N",
        show_default=False,
        help="Largest image in megapixels, decoded and resized. Default: 64. An image of N megapixels takes up to "
        "16 MB of memory each, even if its file has 50 bytes: raise it only for files that you trust.",
    ),
]
MaxFileMib: TypeAlias = Annotated[
    int | None,
    rare_option(
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """How large an image may be; None leaves the limit as it is."""

    max_megapixels: MaxMegapixels = None
    max_file_mib: MaxFileMib = None

    def apply(self) -> None:
        """Set the limits for this process and those that it starts."""
        set_limits(megapixels=self.max_megapixels, file_mib=self.max_file_mib)
