"""A version's card as the Hugging Face Hub shows one: README.md, with YAML in front.

    https://huggingface.co/docs/hub/model-cards

It says what `card.json` says, for people; nothing is read back from it, and no hash covers it. A license is not in a
card, so none is named.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from resx.card.card import FILE_NAME, Card
from resx.card.parity_result import Parity, accuracy_text
from resx.card.signature import Signature
from resx.text import one_line

README = "README.md"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~$])")
_MOST_LABELS = 20


def model_card(card: Card, *, place: str = "") -> str:
    """Return README.md for a version.

    Args:
        card: of the version.
        place: what `resx pull` fetches it from; empty where it lies in a repository on this machine.
    """
    sections = [
        f"# {card.name}",
        _what(card),
        "## Use",
        _use(card, place),
        "## Input and output",
        _interface(card),
        "## Parity with the source",
        _parity(card),
    ]
    if measured := _measured(card):
        sections += ["## What was measured", measured]
    sections += ["## Files", _files(card)]
    return f"{front_matter(_facts(card))}\n" + "\n\n".join(sections) + "\n"


def front_matter(facts: dict[str, Any]) -> str:
    """Return the YAML that the Hub reads, between its two lines."""
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---\n"


def plain(text: object) -> str:
    """Return text of whatever origin as Markdown shows it: one line, nothing of it markup."""
    return _SPECIAL.sub(r"\\\1", one_line(str(text)))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown; cells are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _facts(card: Card) -> dict[str, Any]:
    spec, engine = card.source.spec, card.engine
    tags = ["resx", "tensorrt" if engine else "openvino" if card.runtime_name == "openvino" else "onnx"]
    tags += [spec.architecture.family] if spec is not None else []
    tags += [card.precision]
    facts: dict[str, Any] = {"library_name": "resx", "tags": tags}
    if _classifies(card.signature):
        facts |= {"pipeline_tag": "image-classification"}
    if _accuracies(card):
        facts |= {"metrics": ["accuracy"]}
    return facts


def _classifies(signature: Signature) -> bool:
    return signature.resize is not None and signature.num_outputs > 1


def _what(card: Card) -> str:
    spec, source = card.source.spec, card.source
    network = "A third-party ONNX file" if spec is None else f"{plain(spec.name)} ({plain(spec.architecture.family)})"
    maker = card.tools.get("resx", "")
    text = (
        f"{network}, exported in {card.precision} for the {card.target} by "
        f"resx{f' {plain(maker)}' if maker else ''}: {card.num_weights:,} weights, {plain(source.weights)}."
    )
    if source.is_random:
        text += "\n\n**The weights are random: its answers mean nothing.**"
    return text + f"\n\n```text\n{_fenced(card.command)}\n```"


def _use(card: Card, place: str) -> str:
    lines = [shlex.join(["resx", "pull", place])] if place else []
    lines += [f"resx serve {card.name} --detach"]
    lines += [f"resx query {card.name} photo.jpg"] if card.signature.resize is not None else []
    text = "```bash\n" + "\n".join(lines) + "\n```"
    if card.model_file != "model.onnx":
        return text
    signature = card.signature
    rows, kind = signature.batch or 1, signature.input_type
    given = [rows, *signature.input_dims]
    return (
        f"{text}\n\nOr without resx:\n\n```python\nimport numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{card.model_file}", providers=["CPUExecutionProvider"])\n'
        f"rows = np.zeros({given}, np.{kind})\n"
        f'(answers,) = session.run(["{signature.output_name}"], {{"{signature.input_name}": rows}})\n```'
    )


def _interface(card: Card) -> str:
    signature = card.signature
    batch = str(signature.batch) if signature.batch else f"1 to {card.max_batch_size}"
    rows = [
        ["input", f"`{signature.input_name}`, {signature.input_type}, {[*signature.input_dims]}, batches of {batch}"],
        ["output", f"`{signature.output_name}`, float32, {[*signature.output_dims]}: {signature.output_kind}"],
    ]
    if signature.resize is not None:
        how = "both sides" if signature.crop == "squash" else "the shorter side"
        height, width = signature.pixel_dims[-2:]
        first = f"{how} to {signature.resize} pixels ({signature.interpolation})"
        rows += [["image", f"{signature.channels.upper()}, {signature.layout}; {first}, then {height} x {width}"]]
    if signature.mean is not None and signature.std is not None:
        where = "in the graph" if signature.input_type == "uint8" else "by the client"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (signature.mean, signature.std))
        rows += [["normalization", f"mean {mean}; std {std}, of R, G, B from 0 to {signature.pixel_max}; {where}"]]
    if signature.labels:
        shown = ", ".join(plain(label) for label in signature.labels[:_MOST_LABELS])
        more = f" and {len(signature.labels) - _MOST_LABELS:,} more" if len(signature.labels) > _MOST_LABELS else ""
        rows += [["classes", f"{len(signature.labels):,}: {shown}{more}"]]
    return table(["", ""], rows)


def _parity(card: Card) -> str:
    steps = [*card.steps, *(card.gpu_parity.steps if card.gpu_parity else ())]
    if not steps:
        return "The file was not compared with its source."
    rows = [
        [
            plain(step.step),
            str(step.num_images),
            f"{step.max_abs:.2e}",
            f"{step.scale:.3g}",
            f"{step.top1_agreement:.1%}",
            "passed" if step.passed else "failed",
        ]
        for step in steps
    ]
    on = f"Compared on {plain(card.verified_on)}. " if card.verified_on else ""
    columns = ["step", "images", "largest difference", "logits up to", "same top-1", "verdict"]
    return f"{on}Each step is held to its source.\n\n{table(columns, rows)}"


def _measured(card: Card) -> str:
    lines = [f"{plain(step.step)}: {accuracy_text(step)}" for step in _accuracies(card)]
    if (family := card.family) is not None:
        lines.append(
            f"{family.accuracy:.2%} of {family.num_images:,} {plain(family.accuracy_on)}; "
            f"{family.latency_ms:.3g} ms at batch 1 ({family.threads} threads of {plain(family.processor)})"
        )
    if (runtime := card.runtime) is not None:
        lines.append(f"in {runtime.name} {plain(runtime.version)}, verified on {plain(runtime.instruction_set)}")
    if (made := card.quantisation) is not None:
        lines.append(
            f"int8: {made.int8_share:.1%} of the weights, calibrated on {made.num_images:,} images of "
            f"{plain(made.calibrated_on)}; {len(made.kept_fp32)} of {made.num_layers} layers kept in fp32"
        )
    return "\n".join(f"- {line}" for line in lines)


def _accuracies(card: Card) -> list[Parity]:
    return [step for step in card.steps if accuracy_text(step)]


def _files(card: Card) -> str:
    rows = [[f"`{name}`", f"`{digest}`"] for name, digest in card.files.items()]
    return f"`{FILE_NAME}` holds all of this for programs; `resx verify {card.name}` repeats the checks.\n\n" + table(
        ["file", "SHA-256"], rows
    )


def _fenced(text: str) -> str:
    """Return one line that cannot end the block that it stands in."""
    return one_line(text).replace("```", "'''")
