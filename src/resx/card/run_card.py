"""A run as the Hugging Face Hub shows one: README.md with what was trained, on what, and how well."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from resx.card.model_card import front_matter, plain, table
from resx.training.config import TrainingConfig
from resx.zoo.spec import ModelSpec

_MOST_LABELS = 20


def run_card(
    name: str, spec: ModelSpec, config: TrainingConfig, metrics: Sequence[Mapping[str, Any]], *, place: str = ""
) -> str:
    """Return README.md for a run.

    Args:
        name: of its folder.
        spec: the network.
        config: how it was trained.
        metrics: of every finished epoch; the last one's weights are the run's.
        place: what `resx pull` fetches it from; empty where it lies on this machine.
    """
    facts: dict[str, Any] = {
        "library_name": "resx",
        "tags": ["resx", spec.architecture.family, "safetensors"],
        "pipeline_tag": "image-classification",
    }
    if metrics:
        facts |= {"metrics": ["accuracy"]}
    labels = ", ".join(plain(label) for label in spec.labels[:_MOST_LABELS])
    more = f" and {len(spec.labels) - _MOST_LABELS:,} more" if len(spec.labels) > _MOST_LABELS else ""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    rows = [
        ["network", f"{plain(spec.name)} ({plain(spec.architecture.family)})"],
        ["classes", f"{spec.classes:,}{f': {labels}{more}' if labels else ''}"],
        ["image", f"RGB, {spec.image_size} x {spec.image_size} pixels; mean {mean}; std {std}, of pixels in 0 to 1"],
        [
            "recipe",
            f"{plain(config.recipe)}, {config.epochs} epochs of batches of {config.batch_size}, seed {config.seed}",
        ],
        ["data", plain(config.data)],
    ]
    if spec.survival < 1:
        rows.append(["stochastic depth", f"p_L {spec.survival:g} ({spec.survival_schedule})"])
    if metrics:
        last = metrics[-1]
        rows.append(
            ["accuracy", f"{float(last['accuracy']):.2%} of the held-out images after epoch {int(last['epoch'])}"]
        )
    commands = [shlex.join(["resx", "pull", place])] if place else []
    commands += [f"resx export runs/{name}", "resx serve --detach", f"resx query {name} photo.jpg"]
    sections = [
        f"# {name}",
        f"{plain(spec.name)}, trained with resx: weights as safetensors under torchvision's names, and the spec to "
        "build the network from.",
        "## Use",
        "```bash\n" + "\n".join(commands) + "\n```",
        "## Training",
        table(["", ""], rows),
    ]
    return f"{front_matter(facts)}\n" + "\n\n".join(sections) + "\n"
