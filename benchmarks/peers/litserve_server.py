"""LitServe with its batching: up to eight requests, 2 ms after the first at the latest; raw bytes, no JSON."""

from typing import Annotated

import litserve
import numpy as np
from fastapi import Body, Response
from session import Model, arguments


class Classifier(litserve.LitAPI):
    """The file in LitServe's one worker."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Open the file, in the worker's process."""
        self.model = Model(arguments())

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> np.ndarray:
        """Read one image."""
        return self.model.image(request)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Join the images that came together."""
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Compute a batch."""
        return self.model.logits(images)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Part it again."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        """Answer with the bytes of the logits."""
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(max_batch_size=8, batch_timeout=0.002), accelerator="cpu", timeout=60)
    server.run(
        host="127.0.0.1", port=arguments().port, num_api_servers=1, log_level="warning", generate_client_file=False
    )
