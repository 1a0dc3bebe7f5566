"""Names of models as names of Kubernetes' objects."""

from __future__ import annotations

import re

import pytest

from resx.serving.clusters.naming import LABEL_LIMIT, dns_label


@pytest.mark.parametrize(
    "name", ["resnet50", "a_b", "a.b", "a-b", "A-B", "7", "x" * 128, "-".join("x" * 64), "a--", "_"]
)
def test_every_models_name_gives_a_dns_label(name: str) -> None:
    label = dns_label(name)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", label)
    assert len(label) <= LABEL_LIMIT


def test_different_models_have_different_labels() -> None:
    names = ["a_b", "a.b", "a-b", "A-B", "a--b", "a-b-", "x" * 100, "x" * 101]
    assert len({dns_label(name) for name in names}) == len(names)
    assert dns_label("resnet50") == "triton-resnet50"
