"""Ray Serve with its batching: up to eight requests, 2 ms after the first at the latest; raw bytes, no JSON."""

import signal

import numpy as np
import ray
from ray import serve
from session import Model, arguments
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=64)
class Classifier:
    """The file in one replica."""

    def __init__(self, path: str, *, spinning: bool) -> None:
        self.model = Model(path, spinning=spinning)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.002)
    async def logits(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Compute the images that came together."""
        return list(self.model.logits(np.stack(images)))

    async def __call__(self, request: Request) -> Response:
        """Answer one image."""
        if request.url.path.endswith("/health"):
            return Response("ok")
        logits = await self.logits(self.model.image(await request.body()))
        return Response(logits.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    options = arguments()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(Classifier.bind(str(options.model.resolve()), spinning=options.spinning == "on"), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
