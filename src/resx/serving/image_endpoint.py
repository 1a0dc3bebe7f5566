"""The image endpoint of a model: two more models in the repository, so that a client sends a file's bytes.

    NAME_preprocess/    config.pbtxt  1/model.py    file -> pixels, on the python backend
    NAME_image/         config.pbtxt  1/            ensemble: NAME_preprocess, then NAME

They belong to NAME, have no card and no versions of their own, and say so in a parameter, `resx.endpoint_of`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from resx.errors import UsageError
from resx.export.card import Card
from resx.files import publish_folder, staging_folder, write_atomic
from resx.reading import read_text
from resx.serving.triton_config import (
    CONFIG_FILE,
    DATA_TYPES,
    LABELS_FILE,
    image_parameters,
    labels_text,
    parameter_lines,
    parse,
)

OWNER = "resx.endpoint_of"
PREPROCESS, IMAGE = "_preprocess", "_image"
FILE_INPUT = "file"


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
        raise UsageError(f"--image-endpoint: {card.name} takes {takes}, no single RGB image; leave it out")
    source = resources.files("resx.serving") / "backends" / "preprocess" / "model.py"
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
        text = read_text(folder / CONFIG_FILE)
    except OSError:
        return ""
    if OWNER not in text:
        return ""
    return str(parse(text).parameters[OWNER].string_value)


def require_free_names(root: Path, name: str) -> None:
    """Check before long work that both names are free, or this model's already.

    Raises:
        UsageError: one of them is another model's.
    """
    for full in (name + PREPROCESS, name + IMAGE):
        if (root / full).exists() and owner(root / full) != name:
            raise UsageError(
                f"{root / full}: another model has this name; --image-endpoint wants it, give another --name"
            )


def write_endpoints(root: Path, card: Card, staging: Path) -> None:
    """Write or renew both models. Each folder appears whole; what changes in one that is there is replaced whole."""
    for endpoint in endpoints(card):
        folder = root / endpoint.name
        if folder.exists():
            for path, text in endpoint.files.items():
                if not (folder / path).is_file() or (folder / path).read_text() != text:
                    write_atomic(folder / path, text)
            continue
        with staging_folder(staging) as staged:
            (staged / "1").mkdir()  # an ensemble has nothing in its version, but must have one
            for path, text in endpoint.files.items():
                (staged / path).write_text(text)
            (staged / "1").chmod(0o755)
            publish_folder(staged, folder)


def _preprocess_config(card: Card) -> str:
    signature = card.signature
    dims = [1, *signature.input_dims]
    parameters = {OWNER: card.name} | image_parameters(card)
    return f"""\
# Made by `resx export --image-endpoint` for {card.name}: decodes, resizes and crops a JPEG, PNG or WebP file.
name: "{card.name}{PREPROCESS}"
backend: "python"
max_batch_size: 0
{_tensor("input", FILE_INPUT, "TYPE_UINT8", [-1])}
{_tensor("output", "image", DATA_TYPES[signature.input_type], dims)}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{parameter_lines(parameters)}"""


def _ensemble_config(card: Card) -> str:
    signature = card.signature
    return f"""\
# Made by `resx export --image-endpoint` for {card.name}: a file's bytes in, {card.name}'s logits out.
name: "{card.name}{IMAGE}"
platform: "ensemble"
max_batch_size: 0
{_tensor("input", FILE_INPUT, "TYPE_UINT8", [-1])}
{_tensor("output", "logits", "TYPE_FP32", [1, *signature.output_dims], labels=True)}
ensemble_scheduling {{
  step [
    {{
      model_name: "{card.name}{PREPROCESS}"
      model_version: -1
      input_map {{ key: "{FILE_INPUT}" value: "{FILE_INPUT}" }}
      output_map {{ key: "image" value: "pixels" }}
    }},
    {{
      model_name: "{card.name}"
      model_version: -1
      input_map {{ key: "{signature.input_name}" value: "pixels" }}
      output_map {{ key: "{signature.output_name}" value: "logits" }}
    }}
  ]
}}
{parameter_lines({OWNER: card.name})}"""


def _tensor(what: str, name: str, data_type: str, dims: list[int], *, labels: bool = False) -> str:
    label_line = f'\n    label_filename: "{LABELS_FILE}"' if labels else ""
    return f"""\
{what} [
  {{
    name: "{name}"
    data_type: {data_type}
    dims: {json.dumps(dims).replace("[", "[ ").replace("]", " ]")}{label_line}
  }}
]"""
