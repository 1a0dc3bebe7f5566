"""The image endpoint of a model: two more models in the repository, so that a client sends a file's bytes.

    NAME_preprocess/    config.pbtxt  1/model.py    file -> pixels, on the python backend
    NAME_image/         config.pbtxt  1/            ensemble: NAME_preprocess, then NAME

They belong to NAME, have no card and no versions of their own, and say so in a parameter, `resx.endpoint_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from resx.card.card import Card
from resx.errors import UsageError
from resx.files.staging import publish_folder, staging_folder, write_atomic
from resx.repository.config_pbtxt import (
    CONFIG_FILE,
    DATA_TYPES,
    LABELS_FILE,
    image_parameters,
    labels_text,
    new_message,
    read,
    text,
)
from resx.repository.interface import Interface

OWNER = "resx.endpoint_of"
PREPROCESS, IMAGE = "_preprocess", "_image"
FILE_INPUT = "file"
_MADE = "Made by `resx export --image-endpoint`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """What is to stand in one of the two folders."""

    name: str
    files: dict[str, str]
    """Text by path inside the folder."""


def endpoints(card: Card) -> tuple[Endpoint, Endpoint]:
    """Return the two models that take files for the model of this card, in the order to load them.

    Raises:
        UsageError: the model takes no single images.
    """
    signature = card.signature
    if signature.resize is None or (signature.batch or 1) != 1:
        takes = f"{signature.batch or 'N'} x {[*signature.input_dims]}"
        raise UsageError(f"--image-endpoint: {card.name} takes {takes}, not a single RGB image; remove the option")
    source = resources.files("resx.serving.embedded") / "backends" / "preprocess" / "model.py"
    preprocess = {CONFIG_FILE: _preprocess_config(card), "1/model.py": source.read_text()}
    ensemble = {CONFIG_FILE: _ensemble_config(card), LABELS_FILE: labels_text(card)}
    return (
        Endpoint(name=card.name + PREPROCESS, files=preprocess),
        Endpoint(name=card.name + IMAGE, files=ensemble),
    )


def endpoint_names(root: Path, name: str) -> list[str]:
    """Return which of the two models the repository has for `name`, in the order to load them."""
    return [full for full in (name + PREPROCESS, name + IMAGE) if owner(root / full) == name]


def owner(folder: Path) -> str:
    """Return whose endpoint the model in the folder is, or an empty string."""
    try:
        return str(read(folder / CONFIG_FILE).parameters[OWNER].string_value)
    except UsageError:  # whoever loads the model says what is wrong with it
        return ""


def takes_a_file(interface: Interface) -> bool:
    """Say whether a served model is a part of an image endpoint, whose input is a file's bytes."""
    return interface.input_dims == (-1,) and OWNER in interface.parameters


def require_free_names(root: Path, name: str) -> None:
    """Check before long work that both names are free, or this model's already.

    Raises:
        UsageError: one of them is another model's.
    """
    for full in (name + PREPROCESS, name + IMAGE):
        if (root / full).exists() and owner(root / full) != name:
            raise UsageError(
                f"{root / full}: another model has this name, which --image-endpoint needs; choose another --name"
            )


def write_endpoints(root: Path, card: Card, staging: Path) -> None:
    """Write or renew both models. Each folder appears whole; what changes in one that is there is replaced whole."""
    for endpoint in endpoints(card):
        folder = root / endpoint.name
        if folder.exists():
            for path, content in endpoint.files.items():
                if not (folder / path).is_file() or (folder / path).read_bytes() != content.encode():
                    write_atomic(folder / path, content)
            continue
        with staging_folder(staging) as staged:
            (staged / "1").mkdir()  # an ensemble has nothing in its version, but must have one
            for path, content in endpoint.files.items():
                (staged / path).write_bytes(content.encode())
            publish_folder(staged, folder)


def _preprocess_config(card: Card) -> str:
    signature = card.signature
    message = new_message(card.name + PREPROCESS, {OWNER: card.name} | image_parameters(card))
    message.backend = "python"
    message.input.add(name=FILE_INPUT, data_type="TYPE_UINT8", dims=[-1])
    message.output.add(name="image", data_type=DATA_TYPES[signature.input_type], dims=[1, *signature.input_dims])
    message.instance_group.add(count=1, kind="KIND_CPU")
    made = f"{_MADE} for {card.name}: decodes, resizes and crops a JPEG, PNG or WebP file."
    return text(message, {"name": [made]})


def _ensemble_config(card: Card) -> str:
    signature = card.signature
    message = new_message(card.name + IMAGE, {OWNER: card.name})
    message.platform = "ensemble"
    message.input.add(name=FILE_INPUT, data_type="TYPE_UINT8", dims=[-1])
    message.output.add(
        name="logits", data_type="TYPE_FP32", dims=[1, *signature.output_dims], label_filename=LABELS_FILE
    )
    _add_step(message, card.name + PREPROCESS, (FILE_INPUT, FILE_INPUT), ("image", "pixels"))
    _add_step(message, card.name, (signature.input_name, "pixels"), (signature.output_name, "logits"))
    return text(message, {"name": [f"{_MADE} for {card.name}: a file's bytes in, {card.name}'s logits out."]})


def _add_step(message: Any, model: str, taken: tuple[str, str], given: tuple[str, str]) -> None:
    """Add a model to an ensemble: its input and the ensemble's tensor that it is, its output likewise."""
    step = message.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map[taken[0]], step.output_map[given[0]] = taken[1], given[1]
