"""A small network that has learnt two photographs apart, and how it becomes int8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from resx.card.kinds import Target
from resx.card.origin import Source
from resx.card.runtime import RuntimeName
from resx.data.photographs import RealImages, photograph_crops
from resx.export.checks import parity
from resx.export.int8.calibration import Calibration
from resx.export.int8.int8_file import Int8Options
from resx.export.options import ExportOptions
from resx.export.sources.source import LoadedSource, weights_sha256
from resx.zoo.building import build_from_spec
from resx.zoo.spec import ModelSpec
from tests.support.small_networks import with_statistics
from tests.support.tiny_models import tiny_spec

PHOTOGRAPHS = photograph_crops(40, 16, seed=0)


def taught(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """Fit the last layer to tell the crops of the one photograph from the other's: random weights have no margins."""
    (last,) = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs[0]))
    parity.torch_logits(model, spec, PHOTOGRAPHS)
    hook.remove()
    features = torch.cat(seen).double()
    centred = features - features.mean(0)
    wanted = torch.full((len(PHOTOGRAPHS), 10), -5.0, dtype=torch.float64)
    wanted[torch.arange(len(PHOTOGRAPHS)), torch.arange(len(PHOTOGRAPHS)) % 2] = 5.0
    moments = centred.T @ centred
    ridge = 1e-2 * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    solution = torch.linalg.solve(moments + ridge, centred.T @ (wanted - wanted.mean(0)))
    with torch.no_grad():
        last.weight.copy_(solution.T)
        last.bias.copy_(wanted.mean(0) - features.mean(0) @ solution)
    return model


def source(model: nn.Module, spec: ModelSpec, *, classes: Sequence[int] | None = None) -> LoadedSource:
    real = PHOTOGRAPHS[:20]
    return LoadedSource(
        name=spec.name,
        model=model,
        description=Source(kind="variant", spec=spec, weights="of a test", weights_sha256=weights_sha256(model)),
        real=RealImages(
            images=real, origin="photographs", classes=None if classes is None else np.array(classes, dtype=np.int64)
        ),
    )


def tiny() -> LoadedSource:
    spec = tiny_spec()
    return source(taught(with_statistics(build_from_spec(spec, seed=0)), spec), spec)


def options(
    *,
    target: Target = "cpu",
    runtime: RuntimeName = "onnxruntime",
    method: str = "minmax",
    keep_fp32: tuple[str, ...] = (),
    verify: bool = True,
) -> ExportOptions:
    int8 = Int8Options(
        calibration=Calibration(images=PHOTOGRAPHS[20:], origin="photographs"),
        method=method,  # type: ignore[arg-type]
        keep_fp32=keep_fp32,
    )
    return ExportOptions(precision="int8", int8=int8, target=target, runtime=runtime, max_batch_size=4, verify=verify)
