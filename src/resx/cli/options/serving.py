"""How an exported model is to be served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from resx.repository.config_pbtxt import ServingOptions

_PANEL = "Serving"

MaxBatch: TypeAlias = Annotated[
    int,
    typer.Option("--max-batch", min=1, metavar="N", help="Largest batch that will be served.", rich_help_panel=_PANEL),
]
Instances: TypeAlias = Annotated[
    int, typer.Option(min=1, metavar="N", help="Instances of the model on the server.", rich_help_panel=_PANEL)
]
Threads: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Threads per instance; 0: the server's cores divided by the instances.",
        rich_help_panel=_PANEL,
    ),
]
MaxQueue: TypeAlias = Annotated[
    int,
    typer.Option(
        "--max-queue",
        min=-1,
        metavar="N",
        help="Requests that may wait before one is refused; 0: no bound, -1: four batches.",
        rich_help_panel=_PANEL,
    ),
]
ResponseCache: TypeAlias = Annotated[
    bool,
    typer.Option("--response-cache", metavar="", help="Answer repeated requests from memory.", rich_help_panel=_PANEL),
]
ImageEndpoint: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--image-endpoint",
        metavar="",
        help="Also publish NAME_image, which takes JPEG, PNG and WebP files.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedOptions:
    """How the model is to be served."""

    max_batch: MaxBatch = 8
    instances: Instances = 1
    threads: Threads = 0
    max_queue: MaxQueue = -1
    response_cache: ResponseCache = False
    image_endpoint: ImageEndpoint = False

    def options(self) -> ServingOptions:
        """Return what goes into the model's configuration."""
        from resx.repository.config_pbtxt import ServingOptions

        return ServingOptions(
            instances=self.instances,
            threads=self.threads,
            max_queue_size=self.max_queue,
            response_cache=self.response_cache,
            image_endpoint=self.image_endpoint,
        )
