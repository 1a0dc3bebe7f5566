"""Digests of the container images that are named here; `make images` runs it.

    python -m supply.images      asks each image's registry, and writes what it learns wherever the image is named

supply/images.txt is the list. Exit code 0: every image has its digest. 3: a tag leads to another digest than the list
has, which is left as it is. 4: a registry could not be asked; its images keep what they have.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resx.errors import MissingCapability, ResxError, UsageError
from resx.files.listing import one_line
from resx.files.staging import write_atomic
from supply.locks import ROOT

LIST = ROOT / "supply" / "images.txt"
PLACES = ("supply/images.txt", "docker-compose.yml", "docs/container.md", "src/resx/runtimes/triton_image.py")
"""Where images are named by hand; deploy/ is written by `make manifests`, and the rest takes them from the source."""
_REFERENCE = re.compile(
    r"(?:(?P<host>[a-z0-9.-]+\.[a-z0-9.-]+(?::\d+)?|localhost(?::\d+)?)/)?"
    r"(?P<name>[a-z0-9._/-]+):(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*)(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DOCKER_HUB = "registry-1.docker.io"
# An index of the images for several processors, or the one image there is.
_KINDS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)
_LONGEST = 4 * 2**20
_TIMEOUT_S = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image by its registry, its name there and its tag."""

    host: str
    name: str
    tag: str
    digest: str
    """Empty: not known."""
    tagged: str
    """As it is written, without the digest."""


def parse(text: str) -> Image:
    """Read NAME:TAG or NAME:TAG@sha256:DIGEST.

    Raises:
        UsageError: it is neither.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text}: give NAME:TAG or NAME:TAG@sha256:DIGEST")
    host, name = found["host"] or _DOCKER_HUB, found["name"]
    if host == _DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    return Image(host=host, name=name, tag=found["tag"], digest=found["digest"] or "", tagged=text.partition("@")[0])


def listed(path: Path = LIST) -> tuple[Image, ...]:
    """Return the images of the list."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return tuple(parse(line) for line in lines if line and not line.startswith("#"))


def resolve(image: Image, scheme: str = "https") -> str:
    """Return the digest that a tag has in its registry now: the SHA-256 of the manifest that the registry answers.

    Raises:
        MissingCapability: the registry gives no answer, or none that is a manifest.
    """
    url = f"{scheme}://{image.host}/v2/{image.name}/manifests/{image.tag}"
    try:
        try:
            manifest = _get(url, {"Accept": _KINDS})
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            token = _token(error.headers.get("WWW-Authenticate", ""), image, scheme)
            manifest = _get(url, {"Accept": _KINDS, "Authorization": f"Bearer {token}"})
        if json.loads(manifest).get("schemaVersion") != 2:
            raise ValueError("answers something that is no manifest")
    except (OSError, ValueError, AttributeError) as error:
        raise MissingCapability(f"{image.tagged}: {image.host} could not be asked ({one_line(str(error))})") from error
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for the host that it was made for."""

    def redirect_request(self, *_: object) -> None:
        return None


def _get(url: str, headers: Mapping[str, str]) -> bytes:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http for a test's registry alone
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S) as answer:
        body: bytes = answer.read(_LONGEST + 1)
    if len(body) > _LONGEST:
        raise ValueError(f"answers more than {_LONGEST} bytes")
    return body


def _token(challenge: str, image: Image, scheme: str) -> str:
    """Return an anonymous token of the place that a registry names."""
    said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not said.get("realm", "").startswith(f"{scheme}://"):
        raise ValueError("wants a password")
    url = f"{said['realm']}?service={said.get('service', '')}&scope=repository:{image.name}:pull"
    answer = json.loads(_get(url, {}))
    return str(answer.get("token") or answer["access_token"])


def pin(root: Path, image: Image, digest: str) -> list[str]:
    """Write a digest wherever an image is named without one; return the files that were changed."""
    changed = []
    named = re.compile(re.escape(image.tagged) + r"(?![A-Za-z0-9._@-])")
    for place in PLACES:
        text = (root / place).read_text()
        if (pinned := named.sub(f"{image.tagged}@{digest}", text)) != text:
            write_atomic(root / place, pinned)
            changed.append(place)
    return changed


def update(root: Path, scheme: str = "https") -> tuple[list[str], int]:
    """Ask for every image of the list; return lines for people and the exit code."""
    lines, codes = [], [0]
    for image in listed(root / PLACES[0]):
        try:
            digest = resolve(image, scheme)
        except MissingCapability as error:
            kept = f"stays {image.digest}" if image.digest else "stays without a digest"
            lines.append(f"{error}; {kept}")
            codes.append(error.exit_code)
            continue
        if not image.digest:
            lines.append(f"{image.tagged}: {digest}, written into {', '.join(pin(root, image, digest))}")
        elif image.digest != digest:
            lines.append(f"{image.tagged}: is {digest} now, not {image.digest}; change {PLACES[0]} if that is meant")
            codes.append(3)
        else:
            lines.append(f"{image.tagged}: still {digest}")
    return lines, max(codes)


def main(words: Sequence[str] | None = None) -> int:
    """Ask the registries; return the exit code."""
    argparse.ArgumentParser(prog="python -m supply.images", description="Pin images by digest.").parse_args(words)
    try:
        lines, code = update(ROOT)
    except ResxError as error:
        lines, code = [str(error)], error.exit_code
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
