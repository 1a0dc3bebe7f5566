"""Python models of others: refused by the embedded server where numpy 2 would corrupt what they compute.

The stubs of Triton 2.51 were built for numpy 1. With numpy 2 `as_numpy()` and `pb_utils.Tensor(name, array)`, which
nearly every Python model calls, give empty or wrong tensors without an error, and strings end the process. The models
that resx makes pass DLPack instead, which is exact.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from resx.errors import MissingCapability, UsageError
from resx.repository import image_endpoint
from resx.repository.config_pbtxt import CONFIG_FILE, read
from resx.serving.embedded.installation.triton_installation import TRITON_VERSION
from resx.serving.embedded.server_backends import runs_this_python


def require_none_of_others(root: Path, name: str, server_dir: str = "") -> None:
    """Check that a model, and those that it would load as an ensemble, are no Python models that resx did not make.

    Args:
        root: of the repository that the server serves.
        name: the model's.
        server_dir: the server's, or nothing for resx's own. Another one whose Python is another has its own numpy.

    Raises:
        MissingCapability: one is; the message names it, the reason and the remedy.
    """
    if int(metadata.version("numpy").partition(".")[0]) < 2:
        return
    if server_dir and not runs_this_python(server_dir):
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
                f"{name}: {'' if model == name else f'needs {model}, '}a Python model not made by resx: numpy "
                f"{metadata.version('numpy')} and {_stub(server_dir)} corrupt its tensors; serve it with NVIDIA's "
                "container (docker compose --profile cpu up)"
            )


def _stub(server_dir: str) -> str:
    return f"the Python stub of {server_dir}" if server_dir else f"the embedded Triton {TRITON_VERSION}"
