"""Container images: one list, by digest, and every place that names one takes it from there."""

import hashlib
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from supply.images import PLACES, Image, listed, parse, resolve, update
from supply.locks import ROOT

from resx.errors import MissingCapability, UsageError
from resx.runtimes.triton_image import IMAGE

DIGEST = f"sha256:{'a' * 64}"
MANIFEST = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
TRUE_DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
EXAMPLES = "registry.example.com/"
"""Images of the reader's own."""
NAMED = re.compile(
    r"(?:\bimage:|\bFROM)\s+[\"']?([^\s\"'#]+:[^\s\"'#]+)"
    r"|\b((?:nvcr\.io|docker\.io|ghcr\.io|quay\.io|gcr\.io|registry\.k8s\.io|public\.ecr\.aws)/[\w./-]+:[\w.-]+(?:@\S+)?)"
)


def named(root: Path) -> dict[str, set[str]]:
    """Return the images that files name, and where."""
    folders = ("src", "deploy", "docs", "benchmarks", "supply")
    files = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    found: dict[str, set[str]] = {}
    for path in [*files, root / "docker-compose.yml", root / "README.md", root / "Makefile"]:
        if path.suffix in {".py", ".yml", ".yaml", ".md", ".txt", "", ".cfg", ".conf"}:
            for pair in NAMED.findall(path.read_text()):
                name = (pair[0] or pair[1]).rstrip("\"'`,).;")
                if not name.startswith((EXAMPLES, "${")):
                    found.setdefault(name, set()).add(path.relative_to(root).as_posix())
    return found


def written(image: Image) -> str:
    return f"{image.tagged}@{image.digest}" if image.digest else image.tagged


def test_every_image_that_is_named_is_of_the_list_with_its_digest() -> None:
    places = named(ROOT)
    assert places.keys() == {written(image) for image in listed()}, places
    assert {"docker-compose.yml", "deploy/kserve/servingruntime.yaml", "docs/container.md"} <= places[IMAGE]


def test_an_image_outside_the_list_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for name in ("docker-compose.yml", "README.md", "Makefile"):
        (tmp_path / name).write_text("")
    (tmp_path / "deploy" / "a.yaml").write_text("  image: busybox:1\n  reference: registry.example.com/m:1\n")
    (tmp_path / "deploy" / "b.md").write_text("FROM python:3.13-slim\nuse `quay.io/a/b:2`.\n")
    assert named(tmp_path).keys() == {"busybox:1", "python:3.13-slim", "quay.io/a/b:2"}


def test_only_tritons_image_may_lack_a_digest() -> None:
    """No new image comes in by its tag; Triton's gets its digest by `make images` where its registry is reached."""
    assert {image.tagged for image in listed() if not image.digest} <= {IMAGE}


@pytest.mark.parametrize("text", ["a", "a@" + DIGEST, "a:1@sha256:12", "a:1@md5:1", "a b:1", "a:1 # x", ":1", "a:"])
def test_a_line_that_pins_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME:TAG"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "host", "name"),
    [
        ("prom/prometheus:v3", "registry-1.docker.io", "prom/prometheus"),
        ("busybox:1", "registry-1.docker.io", "library/busybox"),
        ("nvcr.io/nvidia/tritonserver:26.09-py3", "nvcr.io", "nvidia/tritonserver"),
        ("localhost:5000/a/b:1", "localhost:5000", "a/b"),
    ],
)
def test_a_name_leads_to_its_registry(text: str, host: str, name: str) -> None:
    assert (parse(text).host, parse(text).name) == (host, name)
    assert parse(f"{text}@{DIGEST}").digest == DIGEST


class Registry(http.server.BaseHTTPRequestHandler):
    """A registry that wants an anonymous token; the tag says how it answers."""

    def do_GET(self) -> None:
        host = self.headers["Host"]
        tag = self.path.rpartition("/")[2]
        if self.path.startswith("/token"):
            assert "scope=repository:team/image:pull" in self.path
            self.answer(200, b'{"token": "anybody"}')
        elif self.headers["Authorization"] != "Bearer anybody":
            realm = "https://elsewhere.example/token" if tag == "elsewhere" else f"http://{host}/token"
            self.answer(401, b"", **{"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})
        elif tag == "moved":
            self.answer(307, b"", Location=f"http://{host}/v2/team/image/manifests/good")
        else:
            bodies = {"good": MANIFEST, "page": b"<html>", "list": b"[]", "long": MANIFEST + b" " * 5_000_000}
            self.answer(200 if tag in bodies else 404, bodies.get(tag, b"{}"))

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"localhost:{server.server_port}"
        server.shutdown()


def test_the_digest_is_the_hash_of_the_manifest_that_the_registry_answers(registry: str) -> None:
    assert resolve(parse(f"{registry}/team/image:good"), "http") == TRUE_DIGEST


@pytest.mark.parametrize("tag", ["page", "list", "long", "missing", "moved", "elsewhere"])
def test_no_digest_is_made_of_anything_else(registry: str, tag: str) -> None:
    with pytest.raises(MissingCapability, match=f"team/image:{tag}: {registry} could not be asked"):
        resolve(parse(f"{registry}/team/image:{tag}"), "http")


def tree(folder: Path, *lines: str) -> Path:
    """Return a folder with the files that name images by hand, and this list."""
    for place in PLACES:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, folder / place)
        text = "".join(f"image: {line}\n" for line in lines) if place != PLACES[0] else "\n".join(lines)
        (folder / place).write_text(text)
    return folder


def test_a_digest_is_written_wherever_the_image_is_named_and_the_list_says_it(registry: str, tmp_path: Path) -> None:
    image = f"{registry}/team/image:good"
    root = tree(tmp_path, image, f"{image}-other@{DIGEST}")
    lines, code = update(root, "http")
    assert f"{image}: {TRUE_DIGEST}, written into" in lines[0]
    assert code == 4  # the other one is not there
    for place in PLACES:
        text = (root / place).read_text()
        assert text.count(f"{image}@{TRUE_DIGEST}") == 1
        assert f"{image}-other@{DIGEST}" in text
    assert update(root, "http")[0][0] == f"{image}: still {TRUE_DIGEST}"


def test_a_tag_that_leads_elsewhere_now_changes_nothing(registry: str, tmp_path: Path) -> None:
    root = tree(tmp_path, f"{registry}/team/image:good@{DIGEST}")
    before = [(root / place).read_text() for place in PLACES]
    lines, code = update(root, "http")
    assert (code, f"is {TRUE_DIGEST} now, not {DIGEST}" in lines[0]) == (3, True)
    assert [(root / place).read_text() for place in PLACES] == before


def test_a_registry_that_is_not_there_is_said_and_nothing_is_made_up(tmp_path: Path) -> None:
    root = tree(tmp_path, "localhost:9/a/b:1", f"localhost:9/a/c:1@{DIGEST}")
    lines, code = update(root, "http")
    assert code == 4
    assert lines[0].endswith("; stays without a digest")
    assert lines[1].endswith(f"; stays {DIGEST}")
