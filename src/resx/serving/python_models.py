"""Python models of others: refused by the embedded server where numpy 2 would corrupt what they compute.

The stubs of Triton 2.51 were built for numpy 1. With numpy 2 `as_numpy()` and `pb_utils.Tensor(name, array)`, which
nearly every Python model calls, give empty or wrong tensors without an error, and strings end the process. The models
that resx makes pass DLPack instead, which is exact.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from resx.errors import MissingCapability, UsageError
from resx.serving import image_endpoint
from resx.serving.embedded import TRITON_VERSION
from resx.serving.triton_config import CONFIG_FILE, read


def require_none_of_others(root: Path, name: str) -> None:
    """Check that a model, and those that it would load as an ensemble, are no Python models that resx did not make.

    Args:
        root: of the repository that the embedded server serves.
        name: the model's.

    Raises:
        MissingCapability: one is; the message names it, the reason and the remedy.
    """
    if int(metadata.version("numpy").partition(".")[0]) < 2:
        return
    waiting, seen = [name], set[str]()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        try:
            message = read(root / model / CONFIG_FILE)
        except UsageError:  # whoever loads the model says what is wrong with it
            continue
        waiting += [step.model_name for step in message.ensemble_scheduling.step]
        if message.backend == "python" and not image_endpoint.owner(root / model):
            raise MissingCapability(
                f"{name}: {'' if model == name else f'needs {model}, '}a Python model that resx did not make: numpy "
                f"{metadata.version('numpy')} and the embedded Triton {TRITON_VERSION} corrupt its tensors; serve it "
                "with NVIDIA's container (docker compose --profile cpu up)"
            )
