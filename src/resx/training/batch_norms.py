"""Batch norms fitted anew to images: the statistics that they would have gathered in training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from resx.training.evaluation import normalize
from resx.zoo.spec import ModelSpec


def fit_batch_norms(model: nn.Module, spec: ModelSpec, batches: Iterable[npt.NDArray[np.uint8]]) -> None:
    """Set the running statistics of a network's batch norms to the mean over the batches; weights stay.

    Every branch runs, scaled by its survival probability: what the norms see when the network is used. The network is
    left in evaluation mode, its norms with the momentum that they had.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # torch's word for the mean of all batches
    with torch.inference_mode():
        for images_NCHW in batches:
            model(normalize(images_NCHW, spec, torch.device("cpu")))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
