"""A request as curl, Python and JavaScript: run for real, each gives what `resx query` gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resx.cli.options.request_code import LANGUAGES, Language
from resx.cli.steps.request_code import ImageRequest, write_code
from resx.repository import image_endpoint
from resx.serving.client.address import Access, parse_address
from resx.serving.deployment.deploy import deploy
from tests.support.command import ROOT, Resx, refused
from tests.support.running_triton import RunningTriton
from tests.support.tls_proxy import Certificates, make_certificates, tls_proxy

RUNNERS: dict[Language, list[str]] = {
    "curl": ["sh", "-s"],
    "python": [sys.executable, "-I", "-"],
    "javascript": ["node", "--input-type=module", "-"],
}
ODD_NAMES = ["a b.png", "it's $(touch ran) `touch ran`.png", '"é" \\n 😀.png', "-x.png", "~.png", "#[1]*?.png"]


@pytest.fixture(scope="module")
def endpoint(triton: RunningTriton) -> Iterator[RunningTriton]:
    """The server, with an image endpoint of `tiny`."""
    root = triton.repository.root
    image_endpoint.write_endpoints(root, triton.repository.card("tiny"), root.parent / ".staging-code")
    with triton.client() as client:
        deploy(client, triton.repository, "tiny")
    yield triton
    for name in triton.repository.endpoints("tiny"):
        with triton.client() as client:
            client.unload(name)
        shutil.rmtree(root / name)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file whose bytes are no text; the name is the usual one."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run_code(language: Language, code: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run printed code as somebody does who pastes it."""
    program = {"curl": "curl", "python": sys.executable, "javascript": "node"}[language]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run(
        RUNNERS[language],
        input=code,
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def labels_in(language: Language, printed: str) -> list[tuple[str, float]]:
    """Return labels and percentages that the code printed: curl the server's JSON, the others a line each."""
    if language == "curl":
        (output,) = json.loads(printed)["outputs"]
        split = [line.split(":", 2) for line in output["data"]]
        return [(label, 100 * float(value)) for value, _, label in split]
    return [(line.split("  ")[1], float(line.split("%")[0])) for line in printed.splitlines()]


@pytest.mark.triton
@pytest.mark.parametrize("language", LANGUAGES)
def test_printed_code_gives_the_labels_of_a_query(
    endpoint: RunningTriton, resx: Resx, photo: Path, language: Language
) -> None:
    place = f"--repository={endpoint.repository.root}"
    expected = resx("query", "tiny", photo.name, place, "--top=3", "--json").json["images"][0]["top"]
    printed = resx("query", "tiny", photo.name, place, "--top=3", f"--{language}")
    assert (printed.code, printed.err) == (0, "")
    assert f"127.0.0.1:{endpoint.state.http_port}" in printed.out
    as_json = resx("query", "tiny", photo.name, place, "--top=3", f"--{language}", "--json").json
    assert as_json == {"model": "tiny", "language": language, "code": printed.out}

    done = run_code(language, printed.out, photo.parent)

    assert done.returncode == 0, done.stderr
    found = labels_in(language, done.stdout)
    assert [label for label, _ in found] == [guess["label"] for guess in expected]
    assert [value for _, value in found] == pytest.approx([100 * one["probability"] for one in expected], abs=0.006)


@pytest.mark.triton
@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_is_a_name_in_every_language(
    endpoint: RunningTriton, resx: Resx, photo: Path, name: str, language: Language
) -> None:
    photo.rename(photo.with_name(name))
    printed = resx("query", "tiny", "--url", endpoint.url("http"), f"--{language}", "--", name)
    assert printed.code == 0, printed.err
    done = run_code(language, printed.out, photo.parent)
    assert (done.returncode, len(labels_in(language, done.stdout))) == (0, 5), done.stderr
    assert not (photo.parent / "ran").exists()


@pytest.mark.triton
@pytest.mark.parametrize("language", LANGUAGES)
def test_headers_are_named_and_their_values_stay_out(
    endpoint: RunningTriton, resx: Resx, certificates: Certificates, photo: Path, language: Language
) -> None:
    seen: list[bytes] = []
    with tls_proxy(endpoint.state.http_port, certificates, seen=seen) as port:
        printed = resx(
            "query", "tiny", photo.name, "--url", f"https://localhost:{port}", "--ca", certificates.ca,
            "--header", "X-Tenant: somebody-we-know", f"--{language}",
            env={"RESX_HEADERS": "Authorization: Bearer hush"},
        )  # fmt: skip
        assert printed.code == 0, printed.err
        assert "hush" not in printed.out + printed.err
        assert "somebody-we-know" not in printed.out + printed.err
        assert "HEADER_AUTHORIZATION" in printed.out
        seen.clear()
        (photo.parent / ".curlrc").write_text("http1.1\n")  # the test's proxy agrees to HTTP/2, and passes it on unread
        values = {"HEADER_AUTHORIZATION": "Bearer hush", "HEADER_X_TENANT": 'it\'s "$X"'}
        own = {"NODE_EXTRA_CA_CERTS": str(certificates.ca), "CURL_HOME": str(photo.parent)}
        done = run_code(language, printed.out, photo.parent, **own, **values)
    assert (done.returncode, len(labels_in(language, done.stdout))) == (0, 5), done.stderr
    assert all(value.encode() in b"".join(seen) for value in values.values())


@pytest.mark.triton
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_file_that_is_no_image_gets_the_servers_reason(
    endpoint: RunningTriton, resx: Resx, photo: Path, language: Language
) -> None:
    printed = resx("query", "tiny", photo.name, "--url", endpoint.url("http"), f"--{language}")
    photo.write_bytes(b"junk")
    done = run_code(language, printed.out, photo.parent)
    assert "not a JPEG, PNG or WebP" in done.stdout + done.stderr
    assert language == "curl" or done.returncode


@pytest.mark.triton
def test_what_has_no_code_is_one_line(endpoint: RunningTriton, resx: Resx, photo: Path) -> None:
    (photo.parent / "n\nl.png").write_bytes(photo.read_bytes())
    http = ["--url", endpoint.url("http")]
    for arguments, words in (
        (["tiny", "photo.png", "--curl", "--python", *http], "--curl, --python: choose one language"),
        (["tiny", "photo.png", "photo.png", "--curl", *http], "--curl: prints one request; give a single image"),
        (["tiny", "photo.png", "--curl", "--url", endpoint.url()], "--curl prints a request over HTTP"),
        (["tiny", "photo.png", "--javascript", "--protocol=grpc"], "--protocol grpc: --javascript prints"),
        (["tiny", "photo.png", "--curl", "--version=1", *http], "--curl, --version: the image endpoint uses"),
        (["tiny", "none.png", "--python", *http], "none.png: no such file"),
        (["tiny", "n\nl.png", "--curl", *http], "has characters that code cannot show"),
        (
            ["tiny_fp16", "photo.png", "--curl", *http],
            "tiny_fp16 has no image endpoint; export it again with --image-endpoint",
        ),
        (["none", "photo.png", "--curl", *http], "none"),
    ):
        refused(resx("query", *arguments), 2, words)
    refused(resx("query", "tiny", "photo.png", "--curl", "--url", "http://127.0.0.1:1"), 4, "no server answers")


def request_to(url: str, *, output: str = "probabilities", shown: Access | None = None) -> ImageRequest:
    address = parse_address(url, "http", control_key="", shown=shown or Access())
    return ImageRequest(address=address, endpoint="m_image", image="p.jpg", output=output, top=5)


def test_the_page_shows_what_is_printed() -> None:
    address = parse_address("127.0.0.1:8000", "http", control_key="", shown=Access())
    request = ImageRequest(address=address, endpoint="digits_image", image="digit.png", output="probabilities", top=3)
    page = (ROOT / "docs/image-endpoint.md").read_text()
    for language, fence in zip(LANGUAGES, ("sh", "python", "javascript"), strict=True):
        code = "".join(f"{line}\n" for line in write_code(request, language))
        assert f"```{fence}\n{code}```\n" in page


def test_an_older_endpoint_gives_its_logits_as_they_are() -> None:
    for language in LANGUAGES:
        code = "\n".join(write_code(request_to("h:80", output="logits"), language))
        assert '"logits"' in code
        assert "%}" not in code
        assert "toFixed" not in code


def test_a_servers_words_are_text_in_the_code() -> None:
    for output in ("it's $(id)", 'a"b', "a\\"):
        curl = write_code(request_to("h:80", output=output), "curl")
        shown = "\n".join([*curl[:-1], 'printf %s "$head"'])
        head = subprocess.run(["sh", "-s"], input=shown.replace("p.jpg", "/dev/null"), capture_output=True, text=True)
        assert json.loads(head.stdout)["outputs"][0]["name"] == output
        python = "\n".join(write_code(request_to("h:80", output=output), "python"))
        compile(python, "ask.py", "exec")
        assert json.dumps(output) in python
