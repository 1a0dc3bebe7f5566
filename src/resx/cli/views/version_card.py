"""A card for people: what the version is, and the proof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.fitting_table import Cell
from resx.cli.flowing_text import print_text
from resx.cli.marks import in_one_line, verdict
from resx.cli.output import table
from resx.cli.views.image_input import image_input

if TYPE_CHECKING:
    from rich.console import Console

    from resx.card.card import Card
    from resx.card.depth_family import Family
    from resx.card.parity_result import Parity
    from resx.card.precision import Quantisation


_ACCELERATORS = {"tensorrt": "TensorRT inside onnxruntime"}


def summary(card: Card, file: Path) -> list[str]:
    """Return the facts of a version: what it computes in, what for, its size, and how near it is to its source."""
    by = f" by {_ACCELERATORS[card.accelerator]}" if card.accelerator else ""
    by = " by OpenVINO" if card.runtime_name == "openvino" else by
    return [
        f"{card.precision}{' for the GPU' if card.target == 'gpu' else ''}{by}",
        f"{file.stat().st_size / 1e6:.1f} MB",
        "random weights" if card.source.is_random else "",
        nearness(card),
    ]


def nearness(card: Card) -> str:
    """Return how near the file is to its source, in a few words."""
    if not card.steps:
        return "not verified"
    last, source = card.steps[-1], "the source file" if card.source.spec is None else "PyTorch"
    if card.quantisation and last.cosine is not None:
        return f"top-1 as {source} for {last.top1_agreement:.1%} of the images (cosine {last.cosine:.4f})"
    return f"matches {source} (max error {last.max_abs:.0e})"


def headline(console: Console, card: Card, file: Path) -> None:
    """Print what the file is, in one line."""
    small = f"{card.fp16_share:.1%} of the weights in 16 bits, " if card.fp16_share else ""
    small = f"{card.quantisation.int8_share:.1%} of the weights int8, " if card.quantisation else small
    small = f"quantized before: {card.quantised_before.text}, " if card.quantised_before else small
    by = f" by {_ACCELERATORS[card.accelerator]}" if card.accelerator else ""
    by = " by OpenVINO" if card.runtime_name == "openvino" else by
    print_text(
        console,
        f"{file.parent}: {card.precision} for the {card.target}{by}, {file.stat().st_size / 1e6:.1f} MB, "
        f"{small}weights {card.source.weights}",
    )


def runtime_text(card: Card) -> str:
    """Return what computes the file on the CPU and where it was verified; empty for older cards and engines."""
    runtime = card.runtime
    if runtime is None:
        return ""
    counts = ", ".join(f"{number} {precision}" for precision, number in runtime.layer_precisions.items())
    computing = f" in {runtime.precision_hint} ({counts} convolutions and matrix products)" if counts else ""
    return f"{runtime.name} {runtime.version}{computing}, verified on {runtime.instruction_set}"


def accelerated(card: Card) -> str:
    """Return what it means that an accelerator computes the version; empty where none does."""
    if card.accelerator is None:
        return ""
    return (
        f"{_ACCELERATORS[card.accelerator]} computes it, on a GPU only; the file was verified in onnxruntime, and the "
        "server's self-test compares the accelerator's answers with it"
    )


def proof(console: Console, card: Card) -> None:
    """Print the comparisons with the source, the operators before and after, and how int8 came to be."""
    from resx.card.card import tf32_text

    steps = [*card.steps, *(card.gpu_parity.steps if card.gpu_parity else ())]
    rows: list[list[Cell]] = [
        [
            step.step,
            str(step.num_images),
            f"{step.max_abs:.2e}",
            f"{step.mean_abs:.2e}",
            f"{step.scale:.3g}",
            f"{100 * step.top1_agreement:.1f}",
            "-" if step.cosine is None else f"{step.cosine:.5f}",
            verdict("passed" if step.passed else "failed", good=step.passed),
        ]
        for step in steps
    ]
    if rows:
        columns = ["against the source", "images", "max", "mean", "scale", "top-1 %", "cosine", "verdict"]
        console.print(table("", columns, rows, least=("scale", "mean")))
        for text in filter(None, map(_classes, steps)):
            print_text(console, text)
        if text := tf32_text(card):
            print_text(console, text)
    else:
        console.print("not verified (--no-verify)")
    names = sorted({*card.operators_before, *card.operators_after})
    counts = [(name, card.operators_before.get(name, 0), card.operators_after.get(name, 0)) for name in names]
    texts = [f"{name} {after}" if before == after else f"{name} {before} > {after}" for name, before, after in counts]
    if not card.operators_before:  # not counted: the code could not be followed
        texts = [f"{name} {after}" for name, _, after in counts]
    print_text(console, f"operators: {', '.join(texts)}")
    if card.not_fused:
        print_text(console, f"not fused before export: {card.not_fused}")
    if card.quantisation:
        _quantisation(console, card.quantisation)


def _classes(step: Parity) -> str:
    """Return what became of the classes, where there is something to say."""
    from resx.card.parity_result import accuracy_text, flips_text

    said = [flips_text(step) if step.num_flips else "", accuracy_text(step)]
    return f"{step.step}: {', '.join(filter(None, said))}" if any(said) else ""


def normalization(card: Card) -> str:
    """Return how a third party's float images are normalized and who said so; empty for other sources."""
    signature, source = card.signature, card.source.normalization
    if source is None:
        return ""
    says = {
        "option": "as given",
        "file": "from the file's metadata",
        "ImageNet": "ImageNet's, assumed",
        "none": "as it is",
    }
    if source.mean_from == source.std_from:
        return f"mean {numbers(signature.mean)}, std {numbers(signature.std)} ({says[source.mean_from]})"
    return (
        f"mean {numbers(signature.mean)} ({says[source.mean_from]}), "
        f"std {numbers(signature.std)} ({says[source.std_from]})"
    )


def version(console: Console, card: Card, file: Path, versions: list[int], *, verbose: bool) -> None:
    """Print what a person wants to know of a published version; `verbose`: hashes, tools and the proof, too."""
    print_text(console, in_one_line(console, f"{card.name} v{versions[-1]}", *summary(card, file)))
    signature = card.signature
    batch = f"{signature.batch}" if signature.batch else f"1 to {card.max_batch_size}"
    labels = f", labels {signature.labels[0]} ... {signature.labels[-1]}" if signature.labels else ""
    ours = card.source.spec
    survival = f", survival {ours.survival:g} ({ours.survival_schedule})" if ours and ours.survival < 1 else ""
    form = "" if ours is None else f"{ours.architecture.family}{survival}"
    facts = {
        "versions": ", ".join(map(str, versions)),
        "source": f"{card.source.kind} {ours.name if ours else card.source.weights}{f' ({form})' if form else ''}",
        "weights": f"{card.source.weights}{f', sha256 {card.source.weights_sha256}' if verbose else ''}",
        "input": f"{signature.input_name} {signature.input_type} {[*signature.input_dims]}, batches of {batch}",
        "image": image_input(card),
        "output": f"{signature.output_name} float32 {[*signature.output_dims]}{labels}",
        "normalization": normalization(card)
        or f"mean {numbers(signature.mean)}, std {numbers(signature.std)}, "
        f"{'in the graph' if signature.input_type == 'uint8' else 'by the client'}" if signature.mean else "",
        "runtime": runtime_text(card),
        "family": _family(card.family) if card.family else "",
        "verified on": card.verified_on,
        "exported": f"{card.created} by `{card.command}`",
    }  # fmt: skip
    if verbose:
        facts |= {
            "opset": str(card.opset),
            "files": ", ".join(f"{name} sha256 {digest}" for name, digest in card.files.items()),
            "tools": ", ".join(f"{name} {tool}" for name, tool in card.tools.items()),
        }
    for name, text in facts.items():
        if text:
            print_text(console, f"{name:<14} {text}", indent=15)
    if verbose:
        headline(console, card, file)
        proof(console, card)


def _family(family: Family) -> str:
    return (
        f"{family.name}: {family.num_blocks} of {family.whole_blocks} blocks, {family.accuracy:.2%} of "
        f"{family.num_images} {family.accuracy_on}, {family.latency_ms:.3g} ms at batch 1 in onnxruntime "
        f"({family.threads} threads of {family.processor})"
    )


def numbers(values: Sequence[float] | None) -> str:
    """Return channels' numbers to four digits, once where they are the same."""
    texts = [f"{value:.4g}" for value in values or ()]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def _quantisation(console: Console, quantisation: Quantisation) -> None:
    print_text(console, calibration(quantisation))
    if quantisation.kept_fp32:
        rows = [
            [kept.layer, "asked for" if kept.error is None else f"{kept.error:.2e}"] for kept in quantisation.kept_fp32
        ]
        console.print(table("", ["kept in fp32", "power lost to 8 bits"], rows))


def calibration(quantisation: Quantisation) -> str:
    """Return what an int8 file was calibrated on, and how many of its layers are not int8."""
    what = "NOISE, no real images: " if quantisation.is_random else ""
    by = f"; by NNCF {quantisation.tool_version}" if quantisation.tool == "nncf" else ""
    tried = f", found by measuring {quantisation.num_tried} files" if quantisation.num_tried else ""
    return (
        f"Calibrated on {what}{quantisation.num_images} of {quantisation.calibrated_on}, {quantisation.method}{by}; "
        f"{len(quantisation.kept_fp32)} of {quantisation.num_layers} layers kept in fp32{tried}"
    )
