"""What a variant or a run is, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resx.cli.flowing_text import print_text
from resx.cli.views.version_card import numbers

if TYPE_CHECKING:
    from rich.console import Console

_COLUMN = 15
"""Characters of a fact's name and the space behind it."""


def show_network(console: Console, name: str, facts: Mapping[str, Any]) -> None:
    """Print what `resx info` found of a variant or a run.

    Args:
        console: what it is printed on.
        name: the variant's, or the run's folder.
        facts: as `--json` gives them.
    """
    spec, architecture = facts["spec"], facts["spec"]["architecture"]
    fields = {key: value for key, value in architecture.items() if key != "family"}
    dropped = ", ".join(map(str, spec["dropped_blocks"]))
    labels = spec["labels"]
    lines = {
        facts["kind"]: f"{name} ({spec['name']}, {architecture['family']})" if facts["kind"] == "run" else name,
        **_of_a_variant(facts),
        **_of_a_run(facts),
        "classes": f"{spec['classes']}{f': {labels[0]} ... {labels[-1]}' if labels else ''}",
        "image": f"{spec['image_size']} x {spec['image_size']}, {_preparation(spec)}",
        "normalization": f"mean {numbers(spec['mean'])}, std {numbers(spec['std'])}",
        "survival": f"{spec['survival']:g} ({spec['survival_schedule']})" if spec["survival"] < 1 else "",
        "dropped blocks": dropped,
        "architecture": " ".join(f"{key}={_text(value)}" for key, value in fields.items()),
    }
    for key, text in lines.items():
        if text:
            print_text(console, f"{key:<{_COLUMN - 1}} {text}", indent=_COLUMN)


def _of_a_variant(facts: Mapping[str, Any]) -> dict[str, str]:
    if facts["kind"] != "variant":
        return {}
    return {
        "family": facts["family"],
        "parameters": f"{facts['parameters']:,}",
        "multiply-adds": f"{facts['gmacs']:.3g} billion per image",
        "published": facts["published"],
        "paper": facts["paper"],
    }


def _of_a_run(facts: Mapping[str, Any]) -> dict[str, str]:
    if facts["kind"] != "run":
        return {}
    last = facts["last"]
    accuracy = f"; accuracy {last['accuracy']:.2%} after the last" if "accuracy" in last else ""
    return {"epochs": f"{facts['epochs']}{accuracy}"}


def _preparation(spec: Mapping[str, Any]) -> str:
    resized = f"resized to {spec['resize']} ({spec['interpolation']})"
    return f"{resized}, center crop" if spec["crop"] == "center" else f"squashed, {resized}"


def _text(value: Any) -> str:
    """Return a field's value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
