"""`resx predict` as a user runs it, and its answers against those of `resx query`."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pyarrow import parquet

from resx.errors import UsageError
from resx.repository.interface import Interface
from resx.repository.versions import Repository
from resx.scoring.in_process import Sessions, find_model
from resx.scoring.rows import NOT_FINITE, Prepared, score
from tests.support.command import refused
from tests.support.image_files import METADATA, RAMP, RAMP_16_BIT, encoded, pgm, png
from tests.support.onnx_files import channel_means, configure
from tests.support.predict_command import Resx, predicted
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny


def test_every_image_is_a_row_and_a_bad_one_says_why(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    done = predicted(resx, published, images, tmp_path / "out.parquet", "--top", "3")

    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["path"] for row in table] == sorted(map(str, images.glob("*/*.*")))
    assert (done.json["rows"], done.json["errors"], done.json["skipped"]) == (44, 2, 1)
    assert done.json["images_per_s"] > 0
    for row in table:
        bad = "broken" in row["path"] or "empty" in row["path"]
        assert (row["error"] is not None) == bad
        assert len(row["classes"]) == len(row["labels"]) == len(row["probabilities"]) == (0 if bad else 3)
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
    assert "truncated JPEG file" in table[21]["error"]
    assert "Skipped 1 non-image file (.txt) and 1 hidden file or folder" in done.err
    assert done.json["hidden"] == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out.parquet"]


@pytest.mark.parametrize(
    ("kind", "element", "sides", "words"),
    [
        ("FP32", TensorProto.FLOAT, [8, 8], "has no resx.mean"),
        ("FP16", TensorProto.FLOAT16, [8, 8], "has no resx.mean"),
        ("FP32", TensorProto.FLOAT, [-1, -1], "not RGB images"),
        ("INT32", TensorProto.INT32, [8, 8], "images can be sent as UINT8"),
    ],
)
def test_a_model_that_nobody_can_prepare_images_for_fails_before_the_first_row(
    resx: Resx, images: Path, tmp_path: Path, kind: str, element: int, sides: list[int], words: str
) -> None:
    model = tmp_path / "model_repository" / "other"
    channel_means(model / "1/model.onnx", element, [side if side > 0 else f"side{side}" for side in sides])
    configure(model, kind, [3, *sides])
    done = resx("predict", "other", images, "-o", tmp_path / "out.csv")
    refused(done, 2, words)
    assert list(tmp_path.glob("out*")) == []


def test_every_kind_of_image_is_scored_or_says_why_not(resx: Resx, published: Repository, tmp_path: Path) -> None:
    kinds = {
        "a.png": png(RAMP_16_BIT, color=0, bits=16), "b.png": png(RAMP), "c.pgm": pgm(65535),
        "d.png": METADATA["a profile"], "e.tif": encoded("TIFF", RAMP_16_BIT.astype("f")),
        "f.png": encoded("PNG", Image.new("RGB", (1, 300_000))),
        "g.png": encoded("PNG", Image.new("1", (9500, 9500))), "h.png": b"",
    }  # fmt: skip
    (tmp_path / "kinds").mkdir()
    for name, content in kinds.items():
        (tmp_path / "kinds" / name).write_bytes(content)

    done = predicted(resx, published, tmp_path / "kinds", tmp_path / "out.jsonl")

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row in rows[:3]:
        assert row["classes"] == rows[1]["classes"]
        assert row["probabilities"] == pytest.approx(rows[1]["probabilities"], rel=1e-4)
    assert [row["error"] for row in rows[:4]] == [None] * 4
    reasons = (
        "the value range of floating-point pixels",
        "image of 1 x 300000",
        "image of 9500 x 9500",
        "empty file (0 bytes)",
    )
    for row, reason in zip(rows[4:], reasons, strict=True):
        assert row["error"].startswith(reason)
    assert "Warning" not in done.err


@pytest.mark.triton
@pytest.mark.parametrize("name", ["tiny", "tiny_float"])
def test_the_answers_are_those_of_query(
    name: str, resx: Resx, triton: RunningTriton, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shapes"
    folder.mkdir()
    random = np.random.default_rng(1)
    for number, (height, width) in enumerate([(16, 16), (50, 20), (17, 90), (200, 333), (16, 300), (9, 7)]):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.open(images / "0" / "00000.jpg").convert("L").save(folder / "grey.jpg")
    paths = sorted(folder.iterdir())

    asked = resx("query", name, *paths, "--repository", triton.repository.root, "--url", triton.url(), "--json")
    done = resx("predict", name, folder, "-o", "out.jsonl", "--repository", triton.repository.root)

    assert (asked.code, done.code) == (0, 0), asked.err + done.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, entry in zip(rows, asked.json["images"], strict=True):
        assert row["path"] == entry["image"]
        assert row["classes"] == [guess["index"] for guess in entry["top"]]
        assert row["labels"] == [guess["label"] for guess in entry["top"]]
        assert row["probabilities"] == pytest.approx([guess["probability"] for guess in entry["top"]], abs=1e-5)


def test_top_is_at_most_the_models_classes(resx: Resx, images: Path, tmp_path: Path) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "three", classes=3)

    done = resx("predict", "three", images / "0", "-o", "out.csv")

    assert done.code == 0, done.err
    with (tmp_path / "out.csv").open(newline="") as file:
        header, first, *_ = csv.reader(file)
    assert header[-4:] == ["class_3", "label_3", "probability_3", "error"]
    assert sorted(first[1::3][:3]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (b"a\nb\n" + b"".join(b"%d\n" % number for number in range(9)), "11 lines for 10 classes"),
        (b"a\x1b[31mred\n" + b"x\n" * 9, "'a\\x1b[31mred': a class's name is one line"),
        (b"x\n" * 9 + "\u202ered\n".encode(), "'\\u202ered': a class's name is one line"),
    ],
)
def test_labels_that_are_no_lines_or_too_many_are_refused_before_anything_is_scored(
    resx: Resx, published: Repository, images: Path, tmp_path: Path, labels: bytes, words: str
) -> None:
    root = tmp_path / "model_repository"
    shutil.copytree(published.root, root)
    (root / "tiny" / "labels.txt").write_bytes(labels)

    done = resx("predict", "tiny", images, "-o", "o.csv")

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: model_repository/tiny/labels.txt: ")
    assert words in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_repository"]


def test_labels_are_read_from_the_models_folder_only(published: Repository, tmp_path: Path) -> None:
    root = tmp_path / "model_repository"
    shutil.copytree(published.root, root)
    config = root / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace('"labels.txt"', '"../../secret"'))
    (tmp_path / "secret").write_text("password\n")

    with pytest.raises(UsageError, match="label_filename: ../../secret: leads out of its folder"):
        find_model(Repository(root), "tiny", None)


def test_onnxruntime_writes_no_name_of_the_file_to_the_terminal(resx: Resx, tmp_path: Path) -> None:
    """It fails on white images, in a node whose name would clear the screen."""
    shape = [
        helper.make_node("ReduceMin", ["image_f"], ["least"], keepdims=0),
        helper.make_node("Greater", ["least", "bound"], ["white"]),
        helper.make_node("Cast", ["white"], ["more"], to=7),
        helper.make_node("Add", ["more", "size"], ["row"]),
        helper.make_node("Concat", ["any", "row"], ["shape"], axis=0),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["image_f"], to=1),
            *shape,
            helper.make_node("Flatten", ["image_f"], ["flat"]),
            helper.make_node("Reshape", ["flat", "shape"], ["logits"], name="\x1b[2J\x1b]0;OWNED\x07"),
        ],
        "g",
        [helper.make_tensor_value_info("image", 2, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", 1, ["N", 12])],
        [
            numpy_helper.from_array(value, name)
            for name, value in {"bound": np.float32(254), "size": np.array([12]), "any": np.array([-1])}.items()
        ],
    )
    folder = tmp_path / "model_repository" / "foreign" / "1"
    folder.mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.save(made, folder / "model.onnx")
    Image.new("RGB", (2, 2), "white").save(tmp_path / "white.png")

    done = resx("predict", "foreign", "white.png", "-o", "o.csv")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: foreign: onnxruntime cannot run it: ")
    assert "Name:'\\x1b[2J\\x1b]0;OWNED\\x07'" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("as_structure", [False, True])
def test_parquet_gives_the_rows_of_the_files_that_it_holds(
    resx: Resx, published: Repository, images: Path, tmp_path: Path, as_structure: bool
) -> None:
    paths = sorted(map(str, images.glob("*/*.*")))
    content: list[object] = [Path(path).read_bytes() for path in paths]
    if as_structure:
        content = [{"bytes": one, "path": None} for one in content]
    table = pa.table({"path": paths, "image": content, "id": list(range(len(paths)))})
    (tmp_path / "tables").mkdir()
    parquet.write_table(table.slice(0, 30), tmp_path / "tables" / "a.parquet", row_group_size=7)
    parquet.write_table(table.slice(30), tmp_path / "tables" / "b.parquet")

    predicted(resx, published, images, tmp_path / "files.parquet")
    predicted(resx, published, tmp_path / "tables", tmp_path / "out.parquet")

    assert parquet.read_table(tmp_path / "out.parquet").equals(parquet.read_table(tmp_path / "files.parquet"))


def test_a_version_can_be_named(resx: Resx, images: Path, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny", seed=0)
    publish_tiny(repository, "tiny", seed=1)
    for number, name in enumerate(("tiny:1", "tiny:2", "tiny")):
        done = resx("predict", name, images / "0", "-o", f"{number}.parquet", "--json")
        assert (done.code, done.json["version"]) == (0, (1, 2, 2)[number]), done.err

    first, second, newest = (parquet.read_table(tmp_path / f"{number}.parquet") for number in range(3))
    assert newest.equals(second)
    assert not newest.equals(first)


def test_a_bare_file_without_configuration_is_scored(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model_repository" / "bare" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes((published.version_folder("tiny") / "model.onnx").read_bytes())

    done = resx("predict", "bare", images / "0", "-o", "bare.parquet")
    predicted(resx, published, images / "0", tmp_path / "tiny.parquet")

    assert done.code == 0, done.err
    bare, tiny = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("bare", "tiny"))
    assert bare["classes"].equals(tiny["classes"])


def test_an_answer_that_is_not_finite_is_an_error(published: Repository) -> None:
    model = find_model(published, "tiny", None).model
    batch = [Prepared(path=str(n), x=np.zeros((1, 3, 16, 16), np.uint8)) for n in range(3)]
    logits = np.array([[0.0, 1.0, 2.0], [np.nan, 0, 0], [np.inf, 0, 0]], np.float32)

    table = score(batch, model, lambda _: logits, 2).to_pylist()

    assert [row["error"] for row in table] == [None, NOT_FINITE, NOT_FINITE]
    assert [row["classes"] for row in table] == [[2, 1], [], []]


def test_a_fixed_batch_is_filled_up(published: Repository) -> None:
    file = find_model(published, "tiny", None)
    fixed = file.model.interface
    interface = Interface(
        input_name=fixed.input_name,
        input_type=fixed.input_type,
        output_name=fixed.output_name,
        num_classes=10,
        input_dims=fixed.input_dims,
        max_batch_size=4,
        fixed_batch=True,
        parameters=fixed.parameters,
    )
    compute = Sessions(file.path, file.model, file.config, instances=1, device="cpu")
    sizes = []

    def counted(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return compute(x)

    random = np.random.default_rng(0)
    batch = [Prepared(path=str(n), x=random.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)) for n in range(3)]
    filled = score(batch, replace(file.model, interface=interface), counted, 10)

    assert sizes == [4]
    assert filled["classes"].equals(score(batch, file.model, compute, 10)["classes"])


@pytest.mark.parametrize(
    ("source", "out", "code", "words"),
    [
        ("empty", "o.csv", 2, "no images"),
        ("empty.txt", "o.csv", 2, "no images"),
        ("none/*.jpg", "o.csv", 2, "no images"),
        ("nowhere", "o.csv", 2, "no such file"),
        ("numbers.parquet", "o.csv", 2, "no column of bytes among number (int64)"),
        ("two.parquet", "o.csv", 2, "bytes in a, b; choose one with --column"),
        ("broken.parquet", "o.csv", 2, "not a Parquet file"),
        ("memory://nothing", "o.csv", 2, "nothing found"),
        ("nonsense://bucket/x", "o.csv", 2, "Protocol not known"),
        ("adl://bucket/x", "o.csv", 4, "no driver for adl:// is installed; pip install"),
        ("list.txt", "o.xyz", 2, "use a name that ends in .parquet, .csv, .jsonl"),
        ("list.txt", "nowhere/o.csv", 2, "no folder nowhere; create it"),
        ("list.txt", "o\udcff.csv", 2, "-o o\\xff.csv: not valid UTF-8"),
        ("utf16.txt", "o.csv", 2, "utf16.txt: not UTF-8 text"),
        ("hidden", "o.csv", 2, "no images; skipped 1 non-image file (.md) and 2 hidden files or folders"),
        ("memory://h/a.jpg?sig=secret", "o.csv", 2, "memory://h/a.jpg?...: nothing found"),
    ],
)
def test_a_source_or_output_that_cannot_be_is_one_line(
    resx: Resx, published: Repository, tmp_path: Path, source: str, out: str, code: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "list.txt").write_text("a.jpg\n")
    (tmp_path / "utf16.txt").write_text("a.jpg\n", "utf-16")
    (tmp_path / "hidden" / ".git").mkdir(parents=True)
    for name in ("._a.jpg", ".git/a.jpg", "notes.md"):
        (tmp_path / "hidden" / name).touch()
    (tmp_path / "broken.parquet").write_bytes(b"no")
    parquet.write_table(pa.table({"number": [1]}), tmp_path / "numbers.parquet")
    parquet.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), tmp_path / "two.parquet")
    before = sorted(tmp_path.iterdir())

    done = resx("predict", "tiny", source, "-o", out, "--repository", published.root)

    assert done.code == code, done.err
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
