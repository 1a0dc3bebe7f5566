"""The sound files that cases start from, made by resx's own commands, and a sound server's answers."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

MODEL = "base"
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """What cases start from."""

    folder: Path
    """What every case finds in its working folder."""
    answers: Mapping[str, bytes]
    """A server's whole answers by the path asked for; none where no server was started."""


def prepare(folder: Path, *, server: bool, trained: bool) -> Sound:
    """Make the sound files.

    Args:
        folder: an empty one.
        server: whether to start a real server and record its answers.
        trained: whether to train a run.
    """
    _resx(folder, "export", "resnet20", "--name", MODEL)
    (folder / "card.json").write_bytes((folder / f"model_repository/{MODEL}/1/card.json").read_bytes())
    (folder / "images/a").mkdir(parents=True)
    (folder / "images/b").mkdir()
    for number, kind in enumerate(2 * FORMATS):
        (folder / f"images/{'ab'[number % 2]}/{number}.{kind.lower()}").write_bytes(image(kind))
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(10)))
    (folder / "list.txt").write_text("images/a/0.png\nimages/b/1.jpeg\n")
    (folder / "net.onnx").write_bytes(onnx_bytes())
    (folder / "cifar.tar.gz").write_bytes(cifar_archive())
    (folder / "table.parquet").write_bytes(parquet_bytes())
    _write_checkpoints(folder)
    if trained:
        _resx(folder, "train", "resnet20", "--data", "digits", "--epochs", "1", "-o", "run")
    return Sound(folder=folder, answers=_record_answers(folder) if server else {})


def _resx(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "resx", *arguments, "-q"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def image(kind: str) -> bytes:
    """Return a picture of 40 x 36 pixels."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (36, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def onnx_bytes() -> bytes:
    """Return a classifier of three operators, with metadata, as another tool writes it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"], name="pool"),
            helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"], name="fc"),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(
        model, {"names": "{0: 'cat', 1: 'dog'}", "resx.mean": "0.5,0.5,0.5", "resx.std": "0.2,0.2,0.2"}
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def cifar_archive() -> bytes:
    """Return CIFAR-10's archive with two images a batch."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
            content: dict[bytes, object] = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}
            if name == "batches.meta":
                content = {b"label_names": [f"c{index}".encode() for index in range(10)]}
            pickled = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(pickled)
            archive.addfile(member, io.BytesIO(pickled))
    return file.getvalue()


def parquet_bytes() -> bytes:
    """Return a table of images with their names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    table = pa.table({"image": [image("PNG"), image("JPEG"), b"", None], "name": ["a", "=1+1", "\x1b[31m", "b"]})
    pq.write_table(table, file)
    return file.getvalue()


def _write_checkpoints(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from resx.zoo.building import build_from_spec
    from resx.zoo.catalog import variant

    weights = build_from_spec(variant("resnet20").spec, seed=0).state_dict()
    torch.save(weights, folder / "weights.pth")
    save_file(dict(weights), folder / "weights.safetensors")


def _record_answers(folder: Path) -> dict[str, bytes]:
    """Serve the model, ask it through a proxy by every command, and return what it answered by path."""
    environment = os.environ | {"RESX_STATE": str(folder.parent / "state-of-the-sound-server")}
    serve = ["serve", "--detach", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "-q"]
    run = [sys.executable, "-m", "resx"]
    subprocess.run([*run, *serve], cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)
    try:
        state = next(Path(environment["RESX_STATE"]).glob("servers/*/server.json"))
        port = json.loads(state.read_bytes())["http_port"]
        with _recording(port) as (url, answers):
            for arguments in COMMANDS:
                command = [argument.replace("http://127.0.0.1:PORT", url) for argument in arguments]
                subprocess.run([*run, *command], cwd=folder, check=False, capture_output=True, env=environment)
            subprocess.run(
                [*run, "bench", MODEL, "--duration", "1", "--warmup", "0.2", "-o", "bench.json"],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
    finally:
        subprocess.run([*run, "stop"], cwd=folder, check=False, capture_output=True, env=environment)
    return answers


_URL = ("--url", "http://127.0.0.1:PORT")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("query", MODEL, "images/a/0.png", *_URL, "--protocol", "http"),
    ("status", *_URL),
    ("predict", MODEL, "images", "-o", "rows.csv", "--url", "http://127.0.0.1:PORT", "--protocol", "http"),
    ("verify", MODEL, "--url", "http://127.0.0.1:PORT", "--protocol", "http"),
    ("bench", MODEL, *_URL, "--protocol", "http", "--duration", "0.3", "--warmup", "0.1"),
    ("deploy", MODEL, *_URL),
    ("deploy", MODEL, "--dry-run", *_URL),
    ("rollback", MODEL, *_URL),
    ("undeploy", MODEL, *_URL),
)
"""What talks to a server; PORT is the one to ask."""


@contextlib.contextmanager
def _recording(port: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    answers: dict[str, bytes] = {}

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        skipped: ClassVar = {"connection", "transfer-encoding"}

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(self.command, self.path, self.rfile.read(length), dict(self.headers))
            got = connection.getresponse()
            content = got.read()
            lines = [f"HTTP/1.1 {got.status} {got.reason}"]
            lines += [f"{name}: {value}" for name, value in got.getheaders() if name.lower() not in self.skipped]
            whole = "\r\n".join([*lines, "", ""]).encode() + content
            answers[self.path.split("?")[0]] = whole
            self.wfile.write(whole)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", answers
    finally:
        server.shutdown()
        server.server_close()
