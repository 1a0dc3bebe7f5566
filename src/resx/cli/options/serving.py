"""How an exported model is to be served."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from resx.repository.config_pbtxt import ServingOptions

_option = partial(typer.Option, rich_help_panel="Serving")

MaxBatch: TypeAlias = Annotated[
    int, _option("--max-batch", min=1, metavar="N", help="Largest batch that will be served.")
]
Instances: TypeAlias = Annotated[int, _option(min=1, metavar="N", help="Instances of the model on the server.")]
Threads: TypeAlias = Annotated[
    int, _option(min=0, metavar="N", help="Threads per instance; 0: the server's cores divided by the instances.")
]
MaxQueue: TypeAlias = Annotated[
    int,
    _option(
        "--max-queue",
        min=-1,
        metavar="N",
        help="Requests that may wait before one is refused; 0: no bound, -1: four batches.",
    ),
]
ResponseCache: TypeAlias = Annotated[
    bool, _option("--response-cache", metavar="", help="Answer repeated requests from memory.")
]
ImageEndpoint: TypeAlias = Annotated[
    bool, _option("--image-endpoint", metavar="", help="Also publish NAME_image, which takes JPEG, PNG and WebP files.")
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
