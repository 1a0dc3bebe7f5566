"""From a network to a verified engine: the ONNX pipeline first, then the build, then the engine's own checks.

What was verified without a GPU is the ONNX file and the precision of the parsed network; with one, the engine
is opened, its layers are inspected, and it runs against PyTorch like any other file. The card says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from resx.card import canary_rows
from resx.card import card as cards
from resx.card.card import Card
from resx.card.kinds import Precision
from resx.card.parity_result import Tolerance
from resx.card.precision import Engine
from resx.errors import UsageError
from resx.export.checks import parity
from resx.export.gpu_parity import compare_both, require, tolerance_with_tf32
from resx.export.options import ExportOptions
from resx.export.pipeline import MODEL_FILE, Announce, export_version
from resx.export.reference import Exportable
from resx.export.tensorrt.builder import BuiltEngine, EngineOptions, build_engine, portable_to
from resx.export.tensorrt.imported_plan import read_imported_plan
from resx.export.tensorrt.trtexec import ScriptedModel, script_text
from resx.files.staging import publish_folder, remove_abandoned, sha256_of, staging_folder, write_atomic
from resx.runtimes import engine_layers, onnx_reader
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.runtimes.tensorrt_model import TensorRTModel
from resx.runtimes.torch_gpu import gpu_here

Runtime: TypeAlias = OnnxRuntimeModel | TensorRTModel


def export_engine(
    source: Exportable,
    options: ExportOptions,
    engine: EngineOptions,
    trt: Any,
    folder: Path,
    *,
    name: str,
    command: str,
    on_step: Announce = lambda _step: None,
) -> Card:
    """Write `model.plan` (TensorRT-RTX: `model.engine`) and `card.json` into `folder` and return the card.

    Raises:
        ParityError: a step changed what the network computes by more than the tolerance, or its precision.
        ExportError: the network cannot be written, or no engine can be built from it, or opened.
        UsageError: a plan that was given is not one of this network.
    """
    card = export_version(source, options, folder, name=name, command=command, on_step=on_step)
    comparison = _Comparison(source=source, options=options, engine=engine)
    onnx_path = folder / MODEL_FILE
    if engine.plan is not None:
        on_step(f"open {engine.plan}")
        built = read_imported_plan(trt, engine.plan, engine, built_from=onnx_path)
    else:
        on_step(f"build with {trt.__name__} {trt.__version__}")
        built = build_engine(trt, onnx_path, engine, precision=card.precision, name=name, on_step=on_step)
    if built.rewritten is not None:
        rewritten = folder / "rewritten.onnx"
        rewritten.write_bytes(built.rewritten.SerializeToString(deterministic=True))
        step = "onnx, grouped convolutions in fp32"
        card = comparison.verify(card, OnnxRuntimeModel(rewritten), step, comparison.tolerance)
        rewritten.unlink()
        num_weights, num_half = onnx_reader.weight_counts(built.rewritten)
        card = card.model_copy(update={"num_weights": num_weights, "fp16_share": num_half / num_weights})
    path = folder / cards.ENGINE_FILES[built.facts.builder]
    path.write_bytes(built.plan)
    card = card.model_copy(
        update={
            "engine": built.facts,
            "files": {path.name: sha256_of(path)},
            "gpu_parity": None,
            "runtime": None,
        }
    )
    if _runs_here(trt, built.facts):
        on_step("run the engine")
        session = TensorRTModel(path, trt)
        card = _execute(card, session, built, comparison)
        if options.verify:
            twin = _Twin(trt=trt, onnx_path=onnx_path, options=engine, precision=card.precision, on_step=on_step)
            card = _with_gpu_parity(card, session, twin, comparison)
    onnx_path.unlink()
    (folder / cards.FILE_NAME).write_text(cards.write_card(card))
    return card


def export_engine_folder(
    source: Exportable,
    options: ExportOptions,
    engine: EngineOptions,
    trt: Any,
    target: Path,
    *,
    name: str,
    command: str,
    on_step: Announce = lambda _step: None,
) -> Card:
    """Make the folder `target`, which must not exist, of an engine and its card; after any error it is not there.

    Raises:
        UsageError: `target` exists.
        ParityError, ExportError: as `export_engine`.
    """
    require_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    with staging_folder(target.parent) as staged:
        card = export_engine(source, options, engine, trt, staged, name=name, command=command, on_step=on_step)
        on_step("publish")
        publish_folder(staged, target)
    return card


def require_new(target: Path) -> None:
    """Check before long work that nothing is at `target` yet.

    Raises:
        UsageError: something is; an engine once written never changes.
    """
    if target.exists():
        raise UsageError(f"{target}: exists already; choose another folder with -o, or move it elsewhere")


def export_script(
    source: Exportable,
    options: ExportOptions,
    engine: EngineOptions,
    script: Path,
    *,
    name: str,
    command: str,
    on_step: Announce = lambda _step: None,
) -> Card:
    """Write a verified ONNX file, its card and the script that builds a plan from it, side by side.

    `NAME.onnx` and `NAME.card.json` lie in the script's folder, because the container sees only that.

    Raises:
        ParityError, ExportError: as `export_version`.
    """
    script.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(script.parent)
    with staging_folder(script.parent) as staged:
        card = export_version(source, options, staged, name=name, command=command, on_step=on_step)
        onnx_name = f"{name}.onnx"
        (staged / MODEL_FILE).replace(script.parent / onnx_name)
        write_atomic(script.parent / f"{name}.card.json", cards.write_card(card))
    signature = source.description.signature_with(options.input_type)
    model = ScriptedModel(
        name=name,
        onnx_file=onnx_name,
        onnx_sha256=card.files[MODEL_FILE],
        input_name=signature.input_name,
        image_shape=signature.input_dims,
    )
    write_atomic(script, script_text(model, engine), mode=0o777)
    return card


def _runs_here(trt: Any, facts: Engine) -> bool:
    """Say whether the engine is for the GPU of this machine."""
    gpu = gpu_here()
    return gpu is not None and gpu.compute_capability in (facts.compute_capabilities or portable_to(trt))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Comparison:
    """A source, and how what is built of it is held to it: on the batches of the engine's profile."""

    source: Exportable
    options: ExportOptions
    engine: EngineOptions

    @property
    def tolerance(self) -> Tolerance:
        """With TF32 off."""
        return self.options.tolerance_for(self.source.num_layers, self.source.computes_in)

    def tolerance_with_tf32(self, precision: Precision) -> Tolerance:
        """With TF32 on."""
        own, layers = self.options.has_own_tolerance, self.source.num_layers
        return tolerance_with_tf32(precision, self.tolerance, layers, is_own=own)

    def batches(self, card: Card) -> list[parity.Images]:
        """Return the images that are compared."""
        every = parity.images_for(
            card.signature,
            real=self.source.real.images,
            max_batch_size=self.options.max_batch_size,
            seed=self.options.seed,
            with_noise=self.options.precision != "int8",
        )
        return [batch for batch in every if self.engine.batch_min <= len(batch) <= self.engine.batch_max]

    def verify(self, card: Card, session: Runtime, step: str, tolerance: Tolerance) -> Card:
        """Compare a file with PyTorch; return the card with that step."""
        if not self.options.verify:
            return card
        batches = self.batches(card)
        reference = [self.source.logits(batch) for batch in batches]
        answers = [session(card.signature.as_input(batch)) for batch in batches]
        found = parity.require(parity.compare(step, reference, answers, tolerance), name=card.name)
        return card.model_copy(update={"steps": (*card.steps, found)})


def _execute(card: Card, session: TensorRTModel, built: BuiltEngine, comparison: _Comparison) -> Card:
    """Inspect and run the engine; return the card with what it showed, and its own answers as the canary's."""
    facts = inspected_facts(built.facts, session.layers(), card.precision, name=card.name)
    card = card.model_copy(update={"engine": facts.model_copy(update={"executed": True})})
    tolerance = comparison.tolerance
    if comparison.engine.tf32:
        tolerance = comparison.tolerance_with_tf32(comparison.options.precision)
    card = comparison.verify(card, session, built.facts.builder, tolerance)
    if card.canary.num_images < comparison.engine.batch_min:
        return card
    images = canary_rows.canary_input(card.signature, card.canary.num_images)
    answer = np.asarray(session(images), dtype=np.float64)
    rows = tuple(tuple(float(f"{value:.7g}") for value in row) for row in answer)
    return card.model_copy(update={"canary": card.canary.model_copy(update={"logits": rows})})


def inspected_facts(facts: Engine, layers: list[tuple[str, str]], precision: Precision, *, name: str) -> Engine:
    """Return what is known of an engine with what its inspector says of its layers.

    Args:
        facts: known before.
        layers: (name, precision), as the inspector tells them; none where it does not.
        precision: that was asked for.
        name: of the model, for the message.

    Raises:
        ParityError: no layer computes in that precision; in fp32, not all do.
    """
    counts = engine_layers.require_some_precision(layers, precision, name=name)
    # Of an int8 plan from elsewhere nobody knows which layers were meant to stay in a wider precision.
    is_known = bool(layers) and not (facts.built_elsewhere and precision == "int8")
    surplus = engine_layers.count_surplus(layers, facts.network_precisions, precision)
    wider = engine_layers.wider_layers(layers, precision)
    return facts.model_copy(
        update={"engine_precisions": counts, "num_wider": surplus if is_known else None, "wider_layers": wider}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Twin:
    """The same engine built with TF32 the other way: what is compared and never published."""

    trt: Any
    onnx_path: Path
    options: EngineOptions
    precision: Precision
    on_step: Announce

    def open(self, facts: Engine) -> TensorRTModel | None:
        """Build and open it; None where TF32 changes nothing, as no layer is in fp32, or where nobody knows."""
        if "FLOAT" not in facts.network_precisions:
            return None
        tf32 = not self.options.tf32
        self.on_step(f"build it with TF32 {'on' if tf32 else 'off'} too, for comparison")
        built = build_engine(
            self.trt, self.onnx_path, replace(self.options, tf32=tf32), precision=self.precision, on_step=self.on_step
        )
        path = self.onnx_path.with_name("twin")
        path.write_bytes(built.plan)
        try:
            return TensorRTModel(path, self.trt)
        finally:
            path.unlink()


def _with_gpu_parity(card: Card, session: TensorRTModel, twin: _Twin, comparison: _Comparison) -> Card:
    """Measure the engine with TF32 off and on; return the card with both.

    Raises:
        ParityError: with TF32 off it computes something else.
    """
    gpu, facts = gpu_here(), card.engine
    assert gpu is not None, "the engine was run"
    assert facts is not None
    batches = comparison.batches(card)
    found = compare_both(
        lambda tf32: session if tf32 == twin.options.tf32 else twin.open(facts),
        [comparison.source.logits(batch) for batch in batches],
        [card.signature.as_input(batch) for batch in batches],
        gpu=gpu,
        runtime=f"{facts.builder} {facts.version}",
        off=comparison.tolerance,
        on=comparison.tolerance_with_tf32(card.precision),
    )
    return card.model_copy(update={"gpu_parity": require(found, name=card.name)})
