"""What is evaluated from its own weights: a run, a variant, a network of somebody else's making, an .onnx file.

Networks compute in eager PyTorch in fp32, files in onnxruntime; both on the CPU.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from resx.card.origin import SourceArguments
from resx.card.output_kind import is_squashed, kind_of_answers
from resx.card.signature import Signature, signature_of
from resx.errors import UsageError
from resx.export.checks.parity import torch_logits
from resx.export.sources.onnx_files import LoadedFile
from resx.export.sources.source import load_named
from resx.scoring.evaluation.subject import Kind, Subject, require_classes
from resx.training.runs.checkpoint import load_run
from resx.zoo.spec import ModelSpec

_BATCH_SIZE = 32


def open_run(folder: Path) -> Subject:
    """Return a run's network with its trained weights.

    Raises:
        UsageError: the folder has no run, or its files are damaged.
    """
    model, spec = load_run(folder)
    return _of_network(model, spec, title=str(folder), kind="run")


def open_source(arguments: SourceArguments) -> Subject:
    """Return a variant, another network or an .onnx file.

    Raises:
        UsageError: it is none of them, its weights cannot be used, or it is no classifier of RGB images.
        ExportError: onnxruntime refuses the file.
        MissingCapability: published weights could not be downloaded.
    """
    source = load_named(arguments)
    if isinstance(source, LoadedFile):
        return _of_file(source, arguments.source)
    description = source.description
    kind: Kind = "variant" if description.kind == "variant" else "network"
    return _of_network(
        source.model, description.network, title=arguments.source, kind=kind, is_random=description.is_random
    )


def _of_network(model: nn.Module, spec: ModelSpec, *, title: str, kind: Kind, is_random: bool = False) -> Subject:
    signature = signature_of(spec, "uint8")
    return Subject(
        title=title,
        kind=kind,
        labels=spec.labels,
        num_outputs=spec.classes,
        edge=_edge(signature),
        row_bytes=math.prod(signature.input_dims),
        batch_size=_BATCH_SIZE,
        has_random_weights=is_random,
        prepare=partial(_prepare, signature),
        answer=partial(torch_logits, model, spec),
        output_kind=lambda values: kind_of_answers(values, squashed=False),
    )


def _of_file(source: LoadedFile, title: str) -> Subject:
    signature = source.signature
    if signature.resize is None:
        raise UsageError(
            f"{title}: takes {list(signature.input_dims)}, not RGB images [3, H, W]; evaluate a classifier"
        )
    if sum(size > 1 for size in signature.output_dims) > 1:
        raise UsageError(f"{title}: gives {list(signature.output_dims)} per image, not one number per class")
    require_classes(title, signature.num_outputs)
    return Subject(
        title=title,
        kind="file",
        labels=signature.labels,
        num_outputs=signature.num_outputs,
        edge=_edge(signature),
        row_bytes=math.prod(signature.input_dims),
        batch_size=signature.batch or _BATCH_SIZE,
        prepare=partial(_prepare, signature),
        answer=partial(_ask_file, source),
        output_kind=lambda values: kind_of_answers(values, squashed=is_squashed(source.graph)),
    )


def _ask_file(source: LoadedFile, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Ask a file, which may take batches of one size only: what is missing is filled up."""
    rows = source.signature.batch or len(x)
    filled = np.concatenate([x, np.repeat(x[-1:], rows - len(x), axis=0)])
    return source.logits(filled)[: len(x)]


def _edge(signature: Signature) -> int | None:
    height, width = signature.pixel_dims[-2:]
    return height if height == width == signature.resize else None


def _prepare(signature: Signature, image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    return signature.take(image, name)[None]
