"""How a version is put to work on a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from resx.cli.completion import complete_model
from resx.cli.options.validation import finite

if TYPE_CHECKING:
    from resx.serving.deployment.deploy import Manner

DeployedName: TypeAlias = Annotated[
    str, typer.Argument(help="A model of the repository.", autocompletion=complete_model)
]
NoWait: TypeAlias = Annotated[
    bool, typer.Option("--no-wait", metavar="", help="Fail if another command is deploying the model.")
]
Trial: TypeAlias = Annotated[
    float,
    typer.Option(
        min=0, callback=finite, metavar="SECONDS", help="Seconds to monitor it, with the previous version on standby."
    ),
]
KeepPrevious: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--keep-previous", metavar="", help=("Keep the previous version loaded, so that rollback takes milliseconds.")
    ),
]
NoRehearsal: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-rehearsal", metavar="", help="Skip the staging test under another name; its files are not sent."
    ),
]
BestUnder: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Deploy the most accurate member of NAME's depth family that answers within 5ms, 0.005s or 800us on the "
        "server.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployOptions:
    """How careful a deployment is."""

    trial: Trial = 2.0
    keep_previous: KeepPrevious = False
    no_rehearsal: NoRehearsal = False
    no_wait: NoWait = False

    def manner(self) -> Manner:
        """Return how to deploy."""
        from resx.serving.deployment.deploy import Manner

        return Manner(
            rehearse=not self.no_rehearsal, trial_s=self.trial, keep_previous=self.keep_previous, wait=not self.no_wait
        )
