"""Cards of models that were never made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from resx.card.canary_rows import Canary
from resx.card.card import Card
from resx.card.kinds import InputType
from resx.card.origin import Source
from resx.card.precision import Engine
from resx.files.staging import sha256_of
from tests.support.tiny_models import tiny_spec


def card(input_type: InputType = "uint8", weights: str = "runs/tiny/model.safetensors") -> Card:
    return Card(
        name="tiny",
        created="2026-01-01T00:00:00+00:00",
        command="a test",
        source=Source(kind="variant", spec=tiny_spec(), weights=weights, weights_sha256="0" * 64),
        precision="fp32",
        input=input_type,
        max_batch_size=4,
        opset=20,
        num_weights=1,
        fp16_share=0.0,
        verified=True,
        verified_on="noise",
        steps=(),
        canary=Canary(num_images=1, logits=((0.0,) * 10,), tolerance=1e-3),
        files={},
        tools={},
    )


def bicubic_card() -> Card:
    return changed_card(interpolation="bicubic")


def changed_card(**fields: str) -> Card:
    """Return a card whose spec has other fields."""
    plain = card()
    spec = tiny_spec().model_copy(update=fields)
    return plain.model_copy(update={"source": plain.source.model_copy(update={"spec": spec})})


def engine_facts(network: Mapping[str, int] | None = None, **fields: Any) -> Engine:
    """The facts of an engine whose network has these layers by precision; `fields` are others than usual."""
    usual = {
        "builder": "tensorrt", "version": "11.4.0", "compute_capabilities": ("8.6",), "gpu": "A10", "batch_min": 1,
        "batch_opt": 2, "batch_max": 4, "size_bytes": 1, "workspace_mib": 0, "timing_cache": "new", "tf32": False,
        "builder_level": 3, "network_precisions": dict(network or {}), "engine_precisions": {}, "grouped_in_fp32": (),
        "onnx_sha256": "", "executed": True,
    }  # fmt: skip
    return Engine.model_validate(usual | fields)


def plan(builder: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt", *, batch_min: int = 1) -> Card:
    return card().model_copy(update={"engine": engine_facts(builder=builder, batch_min=batch_min)})


def agree(folder: Path) -> None:
    """Let the card have the hash of the file that is there, so that only the server can find out."""
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.onnx"] = sha256_of(folder / "model.onnx")
    (folder / "card.json").write_text(json.dumps(card))
