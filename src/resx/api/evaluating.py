"""Evaluation: accuracy on labeled images, and the difference of two models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resx.api.checked_values import refusals_in_one_line
from resx.api.places import address_at, repository_at
from resx.names import choose
from resx.repository.versions import DEFAULT, Repository

if TYPE_CHECKING:
    from resx.analysis.classification.evaluation import Evaluation
    from resx.analysis.classification.paired_comparison import PairedComparison
    from resx.card.origin import SourceArguments
    from resx.scoring.evaluation.images import Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A model's figures; with `against` the other's, and what becomes of each image from the first to the second."""

    model: str
    accuracy: float
    """Share of the images whose class is the most likely one."""
    low: float
    high: float
    """Of the accuracy's 95 % interval (Wilson)."""
    num_images: int
    evaluation: Evaluation
    """All figures: top-5, precision and recall by class, confusions, calibration."""
    against: Evaluation | None
    comparison: PairedComparison | None
    """Difference in accuracy with its interval, McNemar's test, and the images that the two answer differently."""


def evaluate(
    thing: str | Path,
    *,
    data: str = "",
    part: Part = "held-out",
    against: str | Path = "",
    skip_bad: bool = False,
    by_position: bool = False,
    weights: str = "none",
    image_size: int | None = None,
    repository: Repository | Path | str = DEFAULT,
    url: str = "",
    retries: int = 8,
    seed: int = 0,
    on_step: Callable[[str], None] = lambda _step: None,
    on_remark: Callable[[str], None] = lambda _remark: None,
) -> Evaluated:
    """Measure a classifier on labeled images, as `resx evaluate` does; with `against`, two on the same images.

    Args:
        thing: a run, a variant, an .onnx file, or a published model (`NAME` or `NAME:VERSION`); with `url` a served
            one.
        data: `digits`, `mnist5k`, `cifar10:DIR`, `cifar100:DIR` or `folder:DIR`. Default: what the run was trained on.
        part: `held-out` (never trained on), `train` or `all`.
        against: another model.
        skip_bad: leave out images that cannot be read.
        by_position: match classes by position, not by name.
        weights: of a variant, `torchvision:` or `timm:`: `none` (random), `imagenet` or a file.
        image_size: pixels, for a network that does not say.
        repository: the model repository.
        url: of a server.
        retries: after a lost connection.
        seed: of random weights.
        on_step: called with the name of each step when it begins.
        on_remark: called with what one should know of the images, such as that the run was trained on them.

    Raises:
        UsageError: a model, the data or an image cannot be used, or they do not belong together.
        MissingCapability: no server answers, or a runtime is missing.
        ResxError: a model fails.
    """
    from resx.card.origin import SourceArguments
    from resx.scoring.evaluation.comparing import ImagesAsked, evaluate_models
    from resx.scoring.evaluation.images import PARTS
    from resx.scoring.evaluation.opening import Places, open_model
    from resx.zoo.catalog import kind_of

    def arguments(text: str) -> SourceArguments:
        wanted = "none" if kind_of(text) == "onnx" else weights
        with refusals_in_one_line():
            return SourceArguments(source=text, weights=wanted, seed=seed, image_size=image_size, settings=())

    asked = ImagesAsked(data=data, part=choose("part", part, PARTS), skip_bad=skip_bad, classes_by_position=by_position)
    published = repository_at(repository)
    places = Places(
        repository=published,
        address=address_at(url, published) if url else None,
        arguments=arguments,
        retries=retries,
    )
    with contextlib.ExitStack() as held:
        on_step("load the models")
        models = [open_model(str(text), places, held) for text in (thing, *([against] if against else []))]
        together = evaluate_models(models, asked, on_step=on_step, on_remark=on_remark)
    first, *others = together.evaluations
    return Evaluated(
        model=first.model,
        accuracy=first.top1.share,
        low=first.top1.low,
        high=first.top1.high,
        num_images=first.images.num_images,
        evaluation=first,
        against=others[0] if others else None,
        comparison=together.paired,
    )
