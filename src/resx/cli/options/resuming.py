"""Going on with what an earlier command began, or beginning anew."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from resx.cli.options.grouping import output_option

Resume: TypeAlias = Annotated[bool, output_option("--resume", metavar="", help="Continue what is in the output.")]
Force: TypeAlias = Annotated[
    bool, output_option("--force", metavar="", help="Delete what is in the output and start over.")
]
IgnoreTimes: TypeAlias = Annotated[
    bool, output_option("--ignore-times", metavar="", help="With --resume: accept files with other modification times.")
]
