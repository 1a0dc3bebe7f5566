"""The image endpoint of a model: more models in the repository, so that a client sends a file and reads labels.

    NAME_preprocess/     config.pbtxt  1/model.py    file -> pixels, on the python backend
    NAME_postprocess/    config.pbtxt  1/model.py    logits -> logits, probabilities, likewise; if NAME gives logits
    NAME_image/          config.pbtxt  1/            ensemble: NAME_preprocess, NAME, NAME_postprocess

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
PREPROCESS, POSTPROCESS, IMAGE = _SUFFIXES = ("_preprocess", "_postprocess", "_image")
"""Of the models' names, in the order to load them."""
FILE_INPUT = "file"
PROBABILITIES = "probabilities"
_MADE = "Made by `resx export --image-endpoint`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """What is to stand in one of the folders."""

    name: str
    files: dict[str, str]
    """Text by path inside the folder."""


def endpoints(card: Card) -> tuple[Endpoint, ...]:
    """Return the models by which the model of this card takes files, in the order to load them.

    Raises:
        UsageError: the model takes no single images.
    """
    signature = card.signature
    if signature.resize is None or (signature.batch or 1) != 1:
        takes = f"{signature.batch or 'N'} x {[*signature.input_dims]}"
        raise UsageError(f"--image-endpoint: {card.name} takes {takes}, not a single RGB image; remove the option")
    made = {
        PREPROCESS: {CONFIG_FILE: _preprocess_config(card), "1/model.py": _code("preprocess")},
        POSTPROCESS: {CONFIG_FILE: _postprocess_config(card), "1/model.py": _code("postprocess")},
        IMAGE: {CONFIG_FILE: _ensemble_config(card), LABELS_FILE: labels_text(card)},
    }
    if signature.output_kind != "logits":
        del made[POSTPROCESS]
    return tuple(Endpoint(name=card.name + suffix, files=files) for suffix, files in made.items())


def endpoint_names(root: Path, name: str) -> list[str]:
    """Return which of these models the repository has for `name`, in the order to load them."""
    return [name + suffix for suffix in _SUFFIXES if owner(root / (name + suffix)) == name]


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
    """Check before long work that the names are free, or this model's already.

    Raises:
        UsageError: one of them is another model's.
    """
    for full in (name + suffix for suffix in _SUFFIXES):
        if (root / full).exists() and owner(root / full) != name:
            raise UsageError(
                f"{root / full}: another model has this name, which --image-endpoint needs; choose another --name"
            )


def write_endpoints(root: Path, card: Card, staging: Path) -> None:
    """Write or renew the models. Each folder appears whole; what changes in one that is there is replaced whole."""
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


def _code(folder: str) -> str:
    return (resources.files("resx.serving.embedded") / "backends" / folder / "model.py").read_text()


def _preprocess_config(card: Card) -> str:
    signature = card.signature
    message = new_message(card.name + PREPROCESS, {OWNER: card.name} | image_parameters(card))
    message.backend = "python"
    message.input.add(name=FILE_INPUT, data_type="TYPE_UINT8", dims=[-1])
    message.output.add(name="image", data_type=DATA_TYPES[signature.input_type], dims=[1, *signature.input_dims])
    message.instance_group.add(count=1, kind="KIND_CPU")
    made = f"{_MADE} for {card.name}: decodes, resizes and crops a JPEG, PNG or WebP file."
    return text(message, {"name": [made]})


def _postprocess_config(card: Card) -> str:
    signature = card.signature
    message = new_message(card.name + POSTPROCESS, {OWNER: card.name})
    message.backend = "python"
    logits = {"data_type": "TYPE_FP32", "dims": [1, *signature.output_dims]}
    message.input.add(name="answer", **logits)
    # Triton 2.51 finds no way through an ensemble one of whose outputs is another step's input and not asked for.
    message.output.add(name="logits", **logits)
    message.output.add(name=PROBABILITIES, data_type="TYPE_FP32", dims=[1, signature.num_outputs])
    message.instance_group.add(count=1, kind="KIND_CPU")
    return text(message, {"name": [f"{_MADE} for {card.name}: the softmax of its logits."]})


def _ensemble_config(card: Card) -> str:
    signature = card.signature
    kind = signature.output_kind
    message = new_message(card.name + IMAGE, {OWNER: card.name})
    message.platform = "ensemble"
    message.input.add(name=FILE_INPUT, data_type="TYPE_UINT8", dims=[-1])
    _add_output(message, kind, [1, *signature.output_dims])
    _add_step(message, card.name + PREPROCESS, (FILE_INPUT, FILE_INPUT), ("image", "pixels"))
    given = "answer" if kind == "logits" else kind
    _add_step(message, card.name, (signature.input_name, "pixels"), (signature.output_name, given))
    if kind == "logits":
        _add_output(message, PROBABILITIES, [1, signature.num_outputs])
        _add_step(message, card.name + POSTPROCESS, (given, given), (kind, kind), (PROBABILITIES, PROBABILITIES))
    return text(message, {"name": [f"{_MADE} for {card.name}: a file's bytes in, {card.name}'s answer out."]})


def _add_output(message: Any, name: str, dims: list[int]) -> None:
    message.output.add(name=name, data_type="TYPE_FP32", dims=dims, label_filename=LABELS_FILE)


def _add_step(message: Any, model: str, taken: tuple[str, str], *given: tuple[str, str]) -> None:
    """Add a model to an ensemble: its input and the ensemble's tensor that it is, its outputs likewise."""
    step = message.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map[taken[0]] = taken[1]
    for output, tensor in given:
        step.output_map[output] = tensor
