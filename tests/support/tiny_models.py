"""A small real network, exported and published in about two seconds."""

from __future__ import annotations

from resx.card.card import Card
from resx.card.runtime import RuntimeName
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Published, Repository
from resx.zoo.architectures import ResNetArchitecture
from resx.zoo.catalog import variant
from resx.zoo.spec import ModelSpec


def tiny_spec(*, survival: float = 1.0, image_size: int = 16, classes: int = 10) -> ModelSpec:
    """A residual network of three blocks on small images: exported in about two seconds."""
    base = variant("resnet20").spec.with_changes(classes=classes, survival=survival)
    architecture = ResNetArchitecture(block="basic", stage_depths=(1, 1, 1), width=8, stem="cifar", shortcut="padding")
    return base.model_copy(
        update={"name": "tiny", "architecture": architecture, "image_size": image_size, "resize": image_size}
    )


def publish_tiny(
    repository: Repository,
    name: str,
    *,
    seed: int = 0,
    precision: str = "fp32",
    runtime: RuntimeName = "onnxruntime",
    input_type: str = "uint8",
    classes: int = 10,
    max_batch_size: int = 4,
    image_endpoint: bool = False,
) -> tuple[Card, Published]:
    """Export and publish a tiny network with random weights."""
    from resx.card.origin import Source
    from resx.data.photographs import RealImages, photograph_crops
    from resx.export.options import ExportOptions
    from resx.export.sources.source import LoadedSource, weights_sha256
    from resx.zoo.building import build_from_spec

    spec = tiny_spec(classes=classes)
    model = build_from_spec(spec, seed=seed).eval()
    source = LoadedSource(
        name=name,
        model=model,
        description=Source(kind="variant", spec=spec, weights="random", weights_sha256=weights_sha256(model)),
        real=RealImages(images=photograph_crops(8, spec.image_size, seed=0), origin="photographs"),
    )
    options = ExportOptions(
        precision=precision,  # type: ignore[arg-type]
        runtime=runtime,
        input_type=input_type,  # type: ignore[arg-type]
        max_batch_size=max_batch_size,
    )
    return export_into(
        repository, source, options, ServingOptions(image_endpoint=image_endpoint), name=name, command="a test"
    )
