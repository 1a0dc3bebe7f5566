"""Images are named with a release or a digest."""

from __future__ import annotations

import pytest

from resx.errors import UsageError
from resx.serving.clusters.naming import require_image

ZEROS = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    "image",
    ["a/b:1", "a/b:26.09-py3", "r:5000/a/b:v1", f"a@{ZEROS}", f"r.io/a/b:1@{ZEROS}", f"a:latest@{ZEROS}"],
)
def test_a_pinned_image_is_taken(image: str) -> None:
    assert require_image("--image", image) == image


@pytest.mark.parametrize(
    "image",
    [
        "a/b",
        "a/b:latest",
        "r:5000/a/b",
        "a@sha256:12",
        "a b:1",
        "",
        ":",
        ":1",
        "a/B:1",
        "a//b:1",
        "/a:1",
        "a:1:2",
        f"a@{ZEROS.replace('256', '512')}",
        f"a:1@{ZEROS.upper()}",
        "a:{{ .Values.x }}",
        "a:1\nkind: Pod",
        f"@{ZEROS}",
    ],
)
def test_an_image_without_a_release_is_refused(image: str) -> None:
    with pytest.raises(UsageError, match="--image"):
        require_image("--image", image)
