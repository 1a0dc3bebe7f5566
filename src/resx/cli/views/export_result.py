"""What `resx export` made: its card for people, as JSON, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resx.cli.flowing_text import print_text
from resx.cli.marks import show_done, show_next
from resx.cli.views import version_card
from resx.cli.views.image_input import image_input
from resx.cli.views.version_card import accelerated, normalization, runtime_text

if TYPE_CHECKING:
    from rich.console import Console

    from resx.card.card import Card

_SHOWN = 3
"""Layers that are named; the card has all."""


def exported_as_json(
    name: str, file_format: str, card: Card, file: Path, version: int | None, *, kept: bool
) -> dict[str, Any]:
    """Return what `--json` prints of an export; `kept` says that an earlier export of the same made it."""
    return {
        "name": name, "version": version, "folder": str(file.parent), "precision": card.precision,
        "target": card.target, "accelerator": card.accelerator,
        "runtime": card.runtime.model_dump(mode="json") if card.runtime else None,
        "operators_before": card.operators_before,
        "operators_after": card.operators_after,
        "not_fused": card.not_fused,
        "quantisation": card.quantisation.model_dump(mode="json") if card.quantisation else None,
        "quantised_before": card.quantised_before.model_dump(mode="json") if card.quantised_before else None,
        "weights": card.source.weights, "random_weights": card.source.is_random,
        "normalization": _normalization(card), "fp16_share": card.fp16_share,
        "size_bytes": file.stat().st_size, "verified": card.verified,
        "steps": [step.model_dump(mode="json") for step in card.steps],
        "gpu_parity": card.gpu_parity.model_dump(mode="json") if card.gpu_parity else None,
        "format": file_format, "file": str(file), "kept": kept,
        "engine": card.engine.model_dump(mode="json") if card.engine else None,
    }  # fmt: skip


def _normalization(card: Card) -> dict[str, Any] | None:
    origin = card.source.normalization
    if origin is None:
        return None
    own = card.source.signature or card.signature
    form = {"layout": own.layout, "channels": own.channels, "pixel_max": own.pixel_max}
    return {"mean": own.mean, "std": own.std} | form | origin.model_dump(mode="json")


def show_export(
    console: Console,
    card: Card,
    file: Path,
    version: int | None,
    next_step: str,
    advice: str,
    *,
    kept: bool,
    verbose: bool,
) -> None:
    """Print what was made in one line, what one should know of it, and what to do next; `verbose`: all the proof."""
    where = f"{card.name} v{version}" if version else str(file)
    again = "unchanged, --force exports again" if kept else ""
    show_done(console, f"{'Reused' if kept else 'Exported'} {where}", *version_card.summary(card, file), again)
    if verbose:
        version_card.headline(console, card, file)
        version_card.proof(console, card)
    elif card.quantisation:
        print_text(console, version_card.calibration(card.quantisation))
    if form := image_input(card):
        print_text(console, f"image: {form}")
    if how := normalization(card):
        advice = "; the file does not say: change it with --mean and --std" if "assumed" in how else ""
        print_text(console, f"normalization: {how}{advice}")
    for line in (*remarks(card), *filter(None, [advice])):
        print_text(console, line)
    show_next(console, next_step)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def computed_by(card: Card) -> str:
    """Return what OpenVINO computes the file in; empty where onnxruntime computes it as the file says."""
    return f"computed by {runtime_text(card)}" if card.runtime_name == "openvino" else ""


def remarks(card: Card) -> list[str]:
    """Return what a person should know of the engine, a line each."""
    engine = card.engine
    if engine is None:
        return [text for text in (accelerated(card), computed_by(card)) if text]
    targets = ", ".join(engine.compute_capabilities) or "every GPU that TensorRT-RTX is portable to"
    precisions = engine.engine_precisions or engine.network_precisions
    counts = ", ".join(f"{number} {precision}" for precision, number in precisions.items())
    lines = [
        f"{engine.builder} {engine.version} for compute capability {targets}; batches {engine.batch_min} to "
        f"{engine.batch_max}, tuned for {engine.batch_opt}; timing cache: {engine.timing_cache}",
        f"{'engine' if engine.engine_precisions else 'parsed network'}: {counts} convolutions and matrix products",
    ]
    if engine.num_wider:
        lines.append(
            f"slower than {card.precision} could be: {engine.num_wider} of {sum(engine.engine_precisions.values())} "
            f"layers of the engine compute in a wider precision than the file asks for ({_some(engine.wider_layers)})"
        )
    if engine.executed and not engine.engine_precisions:
        lines.append("the engine does not say what its layers compute in")
    if engine.built_elsewhere:
        lines.append("built elsewhere: workspace, builder level and measurements are not known")
    if engine.grouped_in_fp32:
        lines.append(
            f"{len(engine.grouped_in_fp32)} grouped convolutions are in fp32, as the builder refused them in fp16 "
            "(NVIDIA/TensorRT issue 4838)"
        )
    if not engine.executed:
        lines.append(
            "the engine was not run: no GPU here that it is for; what was verified is the ONNX file it was built from"
        )
    return lines
