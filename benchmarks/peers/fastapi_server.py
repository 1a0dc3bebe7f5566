"""FastAPI and a runtime, as one writes it who knows both: raw bytes, no JSON, the model in the thread pool.

uvicorn with uvloop and httptools, one process, as each more would have its own copy of the model and compete for
the same cores. Nothing is batched: FastAPI has nothing for that.
"""

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from session import Model, arguments

options = arguments()
model = Model(options)
app = FastAPI()


@app.get("/health")
async def health() -> str:
    """Say that it answers."""
    return "ok"


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Answer one image."""
    image = model.image(await request.body())
    logits = await run_in_threadpool(model.logits, image[None])
    return Response(logits.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)
