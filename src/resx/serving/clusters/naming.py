"""Names that Kubernetes takes: of objects, labels, and images. What it would refuse is refused here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from resx.errors import UsageError
from resx.text import one_line

LABEL_LIMIT = 40
"""Characters of the objects' names: KServe and headless services add their own to these, and a label ends at 63."""
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/"
_IMAGE = re.compile(
    rf"(?P<name>(?:{_HOST})?{_WORD}(?:/{_WORD})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_OBJECT = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def dns_label(model: str) -> str:
    """Return `triton-` and the model's name as a DNS label (RFC 1035).

    Where the name had to be changed, six digits of its hash keep `a_b` and `a.b` apart.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    label = f"triton-{plain}"
    if plain == model and len(label) <= LABEL_LIMIT:
        return label
    mark = hashlib.sha256(model.encode()).hexdigest()[:6]
    return f"{label[: LABEL_LIMIT - 7].rstrip('-')}-{mark}"


def require_image(option: str, image: str) -> str:
    """Return an image's reference if it names its bytes: a tag other than `latest`, a digest, or both.

    Raises:
        UsageError: it does not, or no container runtime would read it.
    """
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise UsageError(
            f"{option} {one_line(image)}: not an image; give NAME:TAG or NAME@sha256:DIGEST, NAME in lower case"
        )
    if not found["tag"] and not found["digest"]:
        raise UsageError(f"{option} {image}: no tag or digest; give NAME:TAG or NAME@sha256:DIGEST")
    if found["tag"] == "latest" and not found["digest"]:
        raise UsageError(f"{option} {image}: `latest` changes under running pods; name a release")
    return image


def require_object_name(option: str, name: str) -> None:
    """Check the name of an object in the cluster, such as a service account.

    Raises:
        UsageError: Kubernetes has no such names.
    """
    if not _OBJECT.fullmatch(name):
        raise UsageError(
            f"{option} {one_line(name)}: give an object's name: lower-case letters, digits, `-` and `.`, 253 at most"
        )


def parse_node_labels(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read KEY=VALUE labels of nodes.

    Raises:
        UsageError: a label is none, or a key comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        domain, slash, plain = key.rpartition("/")
        is_key = LABEL_VALUE.fullmatch(plain) and (not slash or _OBJECT.fullmatch(domain))
        if not equals or not is_key or not (value == "" or LABEL_VALUE.fullmatch(value)):
            raise UsageError(f"{option} {one_line(text)}: give a node's label as KEY=VALUE")
        if key in found:
            raise UsageError(f"{option} {key}: given twice; a node has one value per label")
        found[key] = value
    return found
