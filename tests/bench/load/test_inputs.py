"""What a load contains where a model does not say it all: open axes, strings, other types, files for an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from resx.bench.load.inputs import Inputs, as_sent, random_input
from resx.bench.load.wire import Target, requests
from resx.errors import UsageError
from resx.repository.interface import Interface
from resx.repository.versions import Repository
from resx.serving.client.address import Address, Protocol
from resx.serving.client.answers import MAX_VALUES_BYTES
from resx.serving.embedded.server_ports import Ports
from resx.serving.running.server_state import ServerState
from resx.serving.supervisor.detaching import serve_detached, stop
from tests.support.command import Finished, refused
from tests.support.image_files import RAMP, png
from tests.support.onnx_files import channel_means, configure, identity
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]
CLASSES = 100


def interface(kind: str = "FP32", dims: tuple[int, ...] = (3, -1, -1), *, max_batch_size: int = 4) -> Interface:
    return Interface(
        input_name="x",
        input_type=kind,
        output_name="y",
        num_classes=3,
        input_dims=dims,
        max_batch_size=max_batch_size,
        parameters={},
    )


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_a_shape_closes_open_axes_and_no_others() -> None:
    closed, rows = Inputs.read(["x:3,20,30"], None).close("m", interface())
    assert (closed.input_dims, rows) == ((3, 20, 30), None)
    for wrong in ("x:1,20,30", "x:3,20", "x:3,20,30,1"):
        with pytest.raises(UsageError, match=rf"--shape {wrong}: m takes x \[3, -1, -1\]"):
            Inputs.read([wrong], None).close("m", interface())


@pytest.mark.parametrize("text", ["x", "x:", ":3", "x:3,", "x:0,3", "x:-1,3", "x:3 4", "x:99999999999", "3,224,224"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shape .*image:3,224,224"):
        Inputs.read([text], None)


def test_a_shape_of_an_input_that_no_model_has_is_refused() -> None:
    with pytest.raises(UsageError, match="--shape y: no measured model has this input; m takes x"):
        Inputs.read(["x:3,4,4", "y:3"], None).require_used({"m": interface()})


def test_a_name_with_a_colon_and_two_shapes_for_one_input() -> None:
    assert Inputs.read(["input:0:3,4"], None).shapes == {"input:0": (3, 4)}
    with pytest.raises(UsageError, match="is given twice"):
        Inputs.read(["x:3", "x:4"], None)


@pytest.mark.parametrize(
    ("kind", "dims", "words"),
    [
        ("FP32", (3, -1, -1), r"has a dynamic axis; give its shape, as in --shape x:3,224,224, or inputs with --data"),
        ("INT64", (-1,), r"has a dynamic axis; give its shape, as in --shape x:224"),
        ("BYTES", (1,), r"strings \[1\]; give them with --data FILE.npy"),
        ("BYTES", (-1,), r"strings \[-1\]; give them with --data FILE.npy"),
        ("FP32", (0, 3), r"\[0, 3\] is an empty tensor"),
        ("FP32", (2**16, 2**16), r"above 1024 MiB"),
    ],
)
def test_what_resx_cannot_make_up_is_asked_for(kind: str, dims: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Inputs().close("m", interface(kind, dims))


@pytest.mark.parametrize("kind", ["UINT8", "INT32", "INT64", "BOOL", "FP16", "FP32", "FP64"])
def test_noise_has_the_models_type(kind: str) -> None:
    from tritonclient.utils import np_to_triton_dtype

    made = random_input(interface(kind, (4,)), (2, 4), seed=3)
    assert (np_to_triton_dtype(made.dtype), made.shape) == (kind, (2, 4))
    assert np.array_equal(made, random_input(interface(kind, (4,)), (2, 4), seed=3))


def test_the_rows_of_a_file_say_the_shape(tmp_path: Path) -> None:
    data = saved(tmp_path / "rows.npy", np.ones((5, 3, 8, 9), np.float32))
    closed, rows = Inputs.read([], data).close("m", interface())
    assert rows is not None
    assert (closed.input_dims, rows.shape) == ((3, 8, 9), (5, 3, 8, 9))
    with pytest.raises(UsageError, match=r"has inputs \[3, 8, 9\]; remove --shape"):
        Inputs.read(["x:3,8,8"], data).close("m", interface())


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((5, 3, 8, 8)), "has type float64, and m takes float32"),
        (np.ones((5, 4, 8, 8), np.float32), r"an array \[5, 4, 8, 8\]; m takes x \[3, -1, -1\], a row for each input"),
        (np.ones((3, 8, 8), np.float32), r"an array \[3, 8, 8\]"),
        (np.ones((0, 3, 8, 8), np.float32), r"an array \[0, 3, 8, 8\]"),
        (np.float32(1), r"an array \[\]"),
        (np.array([[["a"]]]), "has type str"),
    ],
)
def test_a_file_of_the_wrong_type_or_shape_is_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Inputs.read([], saved(tmp_path / "rows.npy", array)).close("m", interface())


def test_a_file_that_is_no_array_runs_nothing_and_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.npy", np.ones((5, 3, 8, 8), np.float32)).read_bytes()
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    contents = {"cut": whole[:200], "head": whole[:20], "empty": b"", "text": b"hello", "zip": b"PK\x03\x04" + whole}
    for name, content in contents.items():
        (tmp_path / f"{name}.npy").write_bytes(content)
    for name in (*contents, "objects"):
        with pytest.raises(UsageError, match=rf"{name}.npy: not a numpy array"):
            Inputs.read([], tmp_path / f"{name}.npy").close("m", interface())
    with pytest.raises(UsageError, match="No such file"):
        Inputs.read([], tmp_path / "missing.npy").close("m", interface())


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_strings_are_sent_as_triton_reads_them(tmp_path: Path, protocol: Protocol) -> None:
    for array in (np.array([["hé"], ["b"]]), np.array([["hé".encode()], [b"b"]])):
        closed, rows = Inputs.read([], saved(tmp_path / "rows.npy", array)).close("m", interface("BYTES", (1,)))
        assert rows is not None
        target = Target(
            address=Address(host_port="127.0.0.1:9", protocol=protocol),
            model="m",
            version=None,
            answering=1,
            interface=closed,
            rows=rows,
        )
        (request,) = requests(target, [as_sent(rows, closed)])
        assert b"\x03\x00\x00\x00h\xc3\xa9\x01\x00\x00\x00b" in request
        assert b"BYTES" in request


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServerState]]:
    """A server over a model with an image endpoint, one with open sides, and one of integers."""
    home = tmp_path_factory.mktemp("inputs")
    root = home / "model_repository"
    publish_tiny(Repository(root), "tiny", classes=CLASSES, image_endpoint=True)
    channel_means(root / "open/1/model.onnx")
    configure(root / "open", "FP32", [3, -1, -1])
    identity(root / "ids/1/model.onnx", TensorProto.INT32, ["n", 4])
    configure(root / "ids", "INT32", [4], output="INT32", output_dims="4")
    (home / "images").mkdir()
    (home / "images/ramp.png").write_bytes(png(RAMP))
    saved(home / "rows.npy", np.ones((5, 3, 8, 9), np.float32))
    state = serve_detached(Repository(root), Ports(http=0, grpc=0, metrics=0), [])
    yield home, state
    stop(Repository(root))


BRIEF = ("--concurrency", "1", "--duration", "0.5", "--warmup", "0.1")


@pytest.mark.triton
@pytest.mark.parametrize(
    ("words", "contents"),
    [
        (("tiny_image", "--data", "images", "--protocol", "grpc"), "1 images of images, as files"),
        (("open", "--data", "rows.npy", "--protocol", "grpc"), "5 inputs of --data"),
        (("ids", "-b", "2"), "noise"),
    ],
)
def test_a_load_is_measured_whatever_the_model_takes(
    served: tuple[Path, ServerState], resx: Resx, words: tuple[str, ...], contents: str
) -> None:
    done = resx("bench", *words, *BRIEF, "--json", cwd=served[0])
    assert "Traceback" not in done.err
    (measured,) = done.json["measurements"]
    assert (measured["failed"], measured["contents"].startswith(contents)) == (0, True), done.err
    assert measured["requests"] > 0
    assert measured["answers"]["wrong"] == 0
    assert (measured["answers"]["checked"] > 0) == (words[0] == "tiny_image"), "the endpoint's answers are checked"


@pytest.mark.triton
def test_an_open_load_and_a_comparison_send_the_same(served: tuple[Path, ServerState], resx: Resx) -> None:
    home, _ = served
    done = resx("bench", "open", "--rate", "20", *BRIEF[2:], "--shape", "x:3,8,8", "--json", cwd=home)
    assert done.json["measurements"][0]["failed"] == 0, done.err
    done = resx(
        "bench", "tiny_image", "open", "--compare", "--repeat", "2", *BRIEF, "--shape", "x:3,8,8", "--json", cwd=home
    )
    assert {(one["model"], one["failed"]) for one in done.json["measurements"]} == {("tiny_image", 0), ("open", 0)}


@pytest.mark.triton
def test_what_cannot_be_sent_is_refused_in_one_line(served: tuple[Path, ServerState], resx: Resx) -> None:
    home, _ = served
    for words, expected in (
        (("bench", "open"), "--shape x:3,224,224"),
        (("bench", "tiny_image", "--in-process"), "measure tiny"),
        (("bench", "open", "--shape", "x:3,8,8", "--in-process"), "card.json"),
        (("bench", "tiny_image", "--data", "rows.npy"), "accepts image files"),
        (("plan", "tiny_image", "--rate", "5", "--slo", "p99=90ms"), "plan tiny"),
    ):
        refused(resx(*words, "-q", cwd=home), 2, expected)


@pytest.mark.triton
def test_the_bound_of_an_answer_counts_images_and_not_the_bytes_of_a_file(
    served: tuple[Path, ServerState], resx: Resx
) -> None:
    home, _ = served
    photograph = home / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(photograph)
    assert photograph.stat().st_size * CLASSES * 8 > MAX_VALUES_BYTES
    assert resx("query", "tiny", photograph, "--raw", "--json", cwd=home).code == 0
