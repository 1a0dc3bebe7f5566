"""`resx predict` as a user runs it, and its answers against those of `resx query`."""

from __future__ import annotations

import csv
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from resx.scoring.output import without_formula
from resx.scoring.rows import NOT_FINITE, Prepared, score
from resx.scoring.sources.finding import find_source
from tests.support.command import Finished, refused
from tests.support.image_files import METADATA, RAMP, RAMP_16_BIT, encoded, pgm, png
from tests.support.onnx_files import channel_means, configure
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

Resx = Callable[..., Finished]


def predicted(resx: Resx, repository: Repository, source: str | Path, out: Path, *options: str) -> Finished:
    done = resx("predict", "tiny", source, "-o", out, "--repository", repository.root, "--json", *options)
    assert done.code == 0, done.err
    return done


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
    reasons = ("floating-point pixels", "image of 1 x 300000", "image of 9500 x 9500", "empty file (0 bytes)")
    for row, reason in zip(rows[4:], reasons, strict=True):
        assert row["error"].startswith(reason)
    assert "Warning" not in done.err


def test_the_formats_hold_the_same_rows(resx: Resx, published: Repository, images: Path, tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        predicted(resx, published, images, tmp_path / f"out.{suffix}", "--top", "2")

    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    for row, line, cell in zip(rows, lines, cells, strict=True):
        assert np.float32(line.pop("probabilities")).tolist() == row["probabilities"]
        assert line == {key: value for key, value in row.items() if key != "probabilities"}
        assert (cell["path"], cell["error"]) == (row["path"], row["error"] or "")
        assert [cell["class_1"], cell["class_2"]] == (list(map(str, row["classes"])) or ["", ""])
        assert [float(np.float32(cell[f"probability_{place}"])) for place in (1, 2) if not row["error"]] == row[
            "probabilities"
        ]


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


def test_a_list_keeps_its_order_and_its_repetitions(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    listed = [str(images / "1" / "00003.jpg"), "nowhere.jpg", str(images / "0" / "00000.jpg"), str(images), "\n"]
    (tmp_path / "list.txt").write_text("\n".join([*listed, listed[0]]))

    predicted(resx, published, "list.txt", tmp_path / "out.jsonl")

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [*listed[:4], listed[0]]
    assert [row["error"] for row in rows] == [None, "No such file or directory", None, "Is a directory", None]
    assert rows[0] == rows[4]


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().split("\n") if line]


def test_a_line_of_a_list_is_a_name_with_all_its_characters(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    names = ["first.jpg", "a\u2028b.jpg", "a\vb.jpg", "a\x85b.jpg", "blank.jpg ", " blank.jpg", "a\x1b[31m.jpg"]
    for number, name in enumerate(names):
        os.link(images / "0" / f"{2 * number:05}.jpg", tmp_path / name)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*names, "", "first.jpg"]).encode())

    done = predicted(resx, published, "list.txt", tmp_path / "out.jsonl", "--top", "1")

    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["path"] for row in rows] == [*names, "first.jpg"]
    assert [row["error"] for row in rows] == [None] * 8
    assert rows[0] == rows[7]
    assert (done.json["rows"], done.json["first_error"]) == (8, "")


def test_a_source_whose_every_row_fails_is_exit_code_1_and_its_rows_say_why(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    for source, lines, code in (
        ("none.txt", ["nowhere.jpg", str(images / "0" / "broken.jpg")], 1),
        ("one.txt", ["https://user:secret@127.0.0.1:9/a.jpg?sig=secret"], 1),
        ("some.txt", ["nowhere.jpg", str(images / "0" / "00000.jpg")], 0),
    ):
        (tmp_path / source).write_text("\n".join(lines))
        done = resx("predict", "tiny", source, "-o", f"{source}.jsonl", "--repository", published.root, "--json")

        assert done.code == code, done.err
        rows = rows_of(tmp_path / f"{source}.jsonl")
        assert [row["path"] for row in rows] == lines
        assert (done.json["rows"], done.json["errors"]) == (len(lines), len(lines) - (code == 0))
        errors = [line for line in done.err.splitlines() if line.startswith("error:")]
        assert len(errors) == code
        if code:
            first = (
                f"all {len(lines)} rows failed, the first with: {lines[0].replace('user:secret@', '').split('?')[0]}"
            )
            assert first in errors[0]
        assert "secret" not in done.err + str([row["error"] for row in rows])


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("{at}/im[1].png", "im[1].png"),
        ("im[1].png", "im[1].png"),
        ("{at}/what?.png", "what?.png"),
        ("{at}/a%20b.png", "a%20b.png"),
        ("{at}/only%20one.png", "only one.png"),
        ("{at}/set [1]/", "set [1]/x*.png"),
        ("{at}/set%20[1]/x*.png", "set [1]/x*.png"),
        ("{at}/a::b#c.png", "a::b#c.png"),
        ("{at}/im?.png", "im1.png"),
        ("{at}/set%20?/*.png", "set 1/x.png"),
        ("list.txt", "only one.png"),
    ],
)
def test_a_name_is_taken_as_it_is_written_before_it_is_a_pattern_or_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, wanted: str
) -> None:
    at = f"file://{tmp_path}"
    for name in (
        "im[1].png",
        "im1.png",
        "what?.png",
        "whatx.png",
        "a%20b.png",
        "a b.png",
        "only one.png",
        "set [1]/x*.png",
        "set 1/x.png",
        "a::b#c.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "list.txt").write_text(f"{at}/only%20one.png")
    monkeypatch.chdir(tmp_path)

    found = find_source(source.format(at=at), "")

    assert [row.read().decode() for row in found.rows()] == [wanted]
    assert not found.is_remote


def test_in_a_bucket_the_literal_name_wins_too_and_hidden_files_are_skipped() -> None:
    import fsspec

    bucket = fsspec.filesystem("memory")
    names = ["im[1].png", "im1.png", "set [1]/a.png", "set [1]/.h/b.png", "set [1]/._a.png", "set [1]/__MACOSX/a.png"]
    for name in names:
        bucket.pipe(f"/names/{name}", b"x")

    def listed(source: str) -> tuple[list[str], int]:
        found = find_source(f"memory://names/{source}", "")
        return [row.path.removeprefix("memory:///names/") for row in found.rows()], found.hidden

    assert listed("im[1].png") == (["im[1].png"], 0)
    assert listed("set [1]") == (["set [1]/a.png"], 3)
    assert listed("im?.png") == (["im1.png"], 0)
    assert listed("**/*.png") == (["im1.png", "im[1].png", "set [1]/a.png"], 3)
    assert listed("set*/.h/*.png") == (["set [1]/.h/b.png"], 0)
    assert listed("set [[]1]/.h/b.png") == (["set [1]/.h/b.png"], 0)


def test_a_presigned_url_is_an_image_and_only_its_path_column_holds_the_signature(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    class Signed(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            file = images / "0" / path.removeprefix("/")
            self.send_response(403 if query != "sig=good/.x" else 200 if file.is_file() else 404)
            self.end_headers()
            if query == "sig=good/.x" and file.is_file():
                self.wfile.write(file.read_bytes())

        def do_HEAD(self) -> None:  # a signature holds for GET alone
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Signed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        good, bad, gone = f"{at}/00000.jpg?sig=good/.x", f"{at}/00000.jpg?sig=evil", f"{at}/none.jpg?sig=good/.x"
        (tmp_path / "list.txt").write_text(f"{good}\n{bad}\n{gone}\n")
        try:
            one = predicted(resx, published, good, tmp_path / "one.jsonl")
            three = predicted(resx, published, "list.txt", tmp_path / "three.jsonl")
        finally:
            server.shutdown()

    assert one.json["errors"] == 0
    rows = rows_of(tmp_path / "three.jsonl")
    assert rows[0] == rows_of(tmp_path / "one.jsonl")[0]
    assert [row["path"] for row in rows] == [good, bad, gone]
    assert "403" in rows[1]["error"]
    assert rows[2]["error"] == "No such file or directory"
    assert "sig=" not in one.err + one.out + three.err + three.out + rows[1]["error"]


def test_top_is_at_most_the_models_classes(resx: Resx, images: Path, tmp_path: Path) -> None:
    publish_tiny(Repository(tmp_path / "model_repository"), "three", classes=3)

    done = resx("predict", "three", images / "0", "-o", "out.csv")

    assert done.code == 0, done.err
    with (tmp_path / "out.csv").open(newline="") as file:
        header, first, *_ = csv.reader(file)
    assert header[-4:] == ["class_3", "label_3", "probability_3", "error"]
    assert sorted(first[1::3][:3]) == ["0", "1", "2"]


SUSPECT = ("=1+1", "-5", "+5", "@SUM(A1)", " =1", '"=1', "a;=1+1", "fine")


@pytest.fixture
def formulas(tmp_path: Path) -> Repository:
    """A model whose classes are called like formulas, and `photos` that are, too."""
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "tiny", classes=len(SUSPECT))
    (repository.root / "tiny" / "labels.txt").write_text("".join(f"{label}\n" for label in SUSPECT))
    names = ("=1+1.png", "-1.png", "+1.png", "@a.png", "\t=1.png", "\r=1.png", "a,=1.png", "a\n@b.png", "\uff1d1.png")
    for number, name in enumerate((*names, "fine-1.png")):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / name)
    (tmp_path / "-broken.png").write_bytes(b"")
    return repository


def cells_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as opened:
        return list(csv.reader(opened))


def test_a_safe_csv_has_no_formula_in_it_and_its_numbers_are_numbers(
    resx: Resx, formulas: Repository, tmp_path: Path
) -> None:
    top = str(len(SUSPECT))
    predicted(resx, formulas, "*.png", tmp_path / "plain.csv", "--top", top)
    predicted(resx, formulas, "*.png", tmp_path / "safe.csv", "--top", top, "--csv-safe")

    plain, safe = cells_of(tmp_path / "plain.csv"), cells_of(tmp_path / "safe.csv")
    assert {label for row in plain[1:] for label in row[2:-1:3] if label} == set(SUSPECT)
    assert "-1.png" in {row[0] for row in plain}
    assert len(plain) == len(safe) == 12
    assert plain[0] == safe[0]
    for before, after in zip(plain[1:], safe[1:], strict=True):
        assert before[1::3] == after[1::3]  # classes, and the error
        assert before[3::3] == after[3::3]
        for was, cell in zip((before[0], *before[2:-1:3]), (after[0], *after[2:-1:3]), strict=True):
            assert not re.match(r'[\s"]*[=+\-@\uff1d]', cell)
            assert not re.search(r"[,;\n][=+@]", cell)
            assert cell.replace("'", "") == was
            assert ("'" in cell) == (not was.startswith("fine") and was != "")
    assert float(safe[1][3]) > 0


def test_an_error_that_begins_with_a_formula_is_text_in_a_safe_csv() -> None:
    for text, safe in {
        "=cmd|' /C calc'!A0": "'=cmd|' /C calc'!A0",
        "-1": "'-1",
        "\t1": "'\t1",
        "\r1": "'\r1",
        "a - b": "a - b",
        "a=b": "a=b",
        "": "",
        'x,"=1': "x,\"'=1",
        "a\n+1": "a\n'+1",
        "2 + 2": "2 + 2",
        "'=1": "'=1",
        "\uff20x": "'\uff20x",
    }.items():
        assert without_formula(text) == safe


def test_csv_safe_is_for_csv_alone(resx: Resx, published: Repository, images: Path, tmp_path: Path) -> None:
    for name in ("o.parquet", "o.jsonl"):
        done = resx("predict", "tiny", images, "-o", name, "--csv-safe", "--repository", published.root)

        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: --csv-safe, -o {name}: applies to .csv files only")
    assert not list(tmp_path.iterdir())


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


def test_a_glob_takes_what_it_matches(resx: Resx, published: Repository, images: Path, tmp_path: Path) -> None:
    done = predicted(resx, published, f"{images}/**/0000[0-3].*", tmp_path / "out.csv")

    assert done.json["rows"] == 4


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


def test_a_name_that_is_no_utf8_is_shown_escaped(
    resx: Resx, published: Repository, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    os.link(images / "0" / "00000.jpg", os.fsencode(folder) + b"/a\xff.jpg")

    predicted(resx, published, folder, tmp_path / "out.jsonl")

    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["path"] == f"{folder}/a\\xff.jpg"
    assert row["error"] is None


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
