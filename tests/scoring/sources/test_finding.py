"""What a source names: lists, patterns, buckets and URLs, and names with all their characters."""

from __future__ import annotations

import http.server
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from resx.repository.versions import Repository
from resx.scoring.sources.finding import find_source
from tests.support.predict_command import Resx, predicted


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


def test_a_glob_takes_what_it_matches(resx: Resx, published: Repository, images: Path, tmp_path: Path) -> None:
    done = predicted(resx, published, f"{images}/**/0000[0-3].*", tmp_path / "out.csv")

    assert done.json["rows"] == 4


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
