"""BentoML: a service of one worker whose ASGI route takes raw bytes; the session in the thread pool.

Its own endpoints, which could batch, take JSON, files or pickles: for images as raw bytes an ASGI route is its way.
"""

import os
import sys
from pathlib import Path

import bentoml
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from session import Model, arguments

app = FastAPI()


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
@bentoml.asgi_app(app)
class Classifier:
    """The file in one worker."""

    def __init__(self) -> None:
        sys.argv = os.environ["PEER_ARGUMENTS"].split("\n")
        self.model = Model(arguments())

    @app.get("/health")
    async def health(self) -> str:
        """Say that it answers."""
        return "ok"

    @app.post("/predict")
    async def predict(self, request: Request) -> Response:
        """Answer one image."""
        image = self.model.image(await request.body())
        logits = await run_in_threadpool(self.model.logits, image[None])
        return Response(logits.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    options = arguments()
    os.environ |= {
        "PEER_ARGUMENTS": "\n".join(sys.argv), "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": os.environ["HOME"],
    }  # fmt: skip
    here = Path(__file__).parent
    command = ["serve", "bentoml_server:Classifier", "--host", "127.0.0.1", "--port", str(options.port)]
    os.chdir(here)
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command, "--working-dir", str(here)])  # noqa: S606
