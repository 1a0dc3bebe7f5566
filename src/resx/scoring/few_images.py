"""A few images through a published version's file in this process, with the answers of `resx query`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from resx.card.output_kind import as_shown
from resx.errors import ResxError
from resx.scoring.in_process import ModelFile, Sessions
from resx.scoring.rows import NOT_FINITE, answer_rows
from resx.serving.client.image_queries import Guess, model_input


def classify_in_process(
    file: ModelFile, images: Sequence[Image.Image], *, top: int, names: Sequence[object]
) -> list[list[Guess]]:
    """Return per image its `top` highest classes, as `classify_files` does of a server.

    Raises:
        UsageError: an image cannot be prepared.
        MissingCapability: the runtime is not installed.
        ResxError: the model fails, or its answer is not finite.
    """
    model = file.model
    compute = Sessions(file.path, model, file.config, instances=1, device="cpu")
    answers: list[list[Guess]] = []
    for start in range(0, len(images), model.batch_size):
        part = slice(start, start + model.batch_size)
        rows = answer_rows(model_input(images[part], model.interface, names[part]), model, compute)
        for row in as_shown(rows, model.output_kind):
            if not np.isfinite(row).all():
                raise ResxError(f"{model.name}: {NOT_FINITE}")
            best = np.argsort(-row, kind="stable")[:top]
            answers.append([Guess(label=model.label(int(k)), index=int(k), value=float(row[k])) for k in best])
    return answers
