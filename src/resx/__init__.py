"""Train, export, serve and benchmark ResNet-family models.

The whole line, from a name to a measured, served model:

    import resx

    run = resx.train("resnet20", data="digits", epochs=3)
    model = resx.export(run.folder, name="digits", fp16=True)
    print(model.name, model.version, model.verified)
    print(resx.evaluate(run.folder, against="digits").comparison)
    with resx.serve("digits") as server, server.client() as client:
        print(client.query("digits", ["photo.png"]))
        for load in resx.bench("digits", concurrency="1,4").measurements:
            print(load.title, load.images_per_s, load.p99_ms)

What there is:

    list_models      names of all variants
    build, fold      a network with random weights; its survival probabilities folded into the weights
    train            a run's folder with weights, spec and metrics
    export           a verified file, published as the next version in a model repository
    verify           a published version's checks again, or two files compared
    evaluate         accuracy on labeled images, and the difference of two models
    Repository       the models and versions of a folder
    serve            the embedded Triton for the length of a `with` block
    Client           a connection to any Triton: image files in, labels out
    bench            latency and throughput of a served model

The functions do what the commands of the same names do, print nothing, and take the options' names as keywords. What a
user can cause is a `ResxError` of `resx.errors`: one line, with the remedy.

`import resx` imports nothing heavy: torch is imported when a function needs it. `resx.export` and `resx.bench` are
packages too; called, they are the functions.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resx._version import __version__

if TYPE_CHECKING:
    from resx.api.benchmarking import bench
    from resx.api.client import Client
    from resx.api.evaluating import evaluate
    from resx.api.exporting import export
    from resx.api.networks import build, fold, list_models
    from resx.api.serving import serve
    from resx.api.training import train
    from resx.api.verifying import verify
    from resx.repository.versions import Repository

__all__ = [
    "Client",
    "Repository",
    "__version__",
    "bench",
    "build",
    "evaluate",
    "export",
    "fold",
    "list_models",
    "serve",
    "train",
    "verify",
]

# Nothing is reported to anybody. onnxruntime's wheel looks up a host of Microsoft's and writes a device id into the
# home folder as soon as it is loaded; its own `disable_telemetry_events()` comes too late for both. It stands here so
# that it is set before any module of resx loads it, and in all that is started from here: workers, Triton, its stubs.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# The same for OpenVINO and NNCF: as soon as it is imported, `openvino` tells Google Analytics and writes an id into
# ~/intel, which no variable forbids. Without this package, which both take for optional, they report nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

_HOMES = {
    "Client": "resx.api.client",
    "Repository": "resx.repository.versions",
    "bench": "resx.api.benchmarking",
    "build": "resx.api.networks",
    "evaluate": "resx.api.evaluating",
    "export": "resx.api.exporting",
    "fold": "resx.api.networks",
    "list_models": "resx.api.networks",
    "serve": "resx.api.serving",
    "train": "resx.api.training",
    "verify": "resx.api.verifying",
}
"""Where what is imported at its first use is defined."""


class _CallablePackage(ModuleType):
    """A package that is called as the function of its name: `resx.export(...)` beside `resx.export.pipeline`."""

    @property
    def __wrapped__(self) -> Any:
        """The function, for `inspect.signature` and `help`."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_HOMES[name]), name)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """The function's."""
        documented: str | None = self.__wrapped__.__doc__
        return documented

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)


# Their modules are imported by whatever works below, and a package would then hide a function of its name.
for _name in ("bench", "export"):
    importlib.import_module(f"resx.{_name}").__class__ = _CallablePackage


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
