"""What the embedded server needs on this machine to open a model's file, before it is told to.

An ONNX file on onnxruntime needs nothing that the server itself does not; an engine needs a GPU and its package
(`engine_runtime.py`); a model on OpenVINO needs the extra `openvino`, and bf16 a processor that has it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resx.card.card import Card
from resx.errors import MissingCapability, UsageError
from resx.gpus import Device, Wish
from resx.repository.config_pbtxt import CONFIG_FILE, read
from resx.repository.openvino_backend import NAME as OPENVINO
from resx.repository.versions import Repository
from resx.serving.embedded.backend_session import load_session, served_config
from resx.serving.embedded.engine_runtime import engine_backend, require_engine_runtime


def needs_runtime(model_folder: Path) -> bool:
    """Say whether a model wants more of its server than onnxruntime."""
    return bool(engine_backend(model_folder)) or is_openvino(model_folder)


def is_openvino(model_folder: Path) -> bool:
    """Say whether OpenVINO computes a model, by its configuration."""
    try:
        return str(read(model_folder / CONFIG_FILE).backend) == OPENVINO
    except UsageError:  # whoever loads the model says what is wrong with it
        return False


def require_runtime(model_folder: Path, card: Card | None, *, embedded: bool, device: Device | None) -> None:
    """Check that a server can open a model's file.

    Args:
        model_folder: with config.pbtxt.
        card: of the version; None: it has none.
        embedded: whether it is the embedded server, which runs here.
        device: what that server computes on; None: whatever is here.

    Raises:
        MissingCapability: it cannot; the message says all that is missing.
    """
    require_engine_runtime(model_folder, card, embedded=embedded, device=device)
    if embedded:
        require_openvino(model_folder, card)


def require_openvino(
    model_folder: Path,
    card: Card | None,
    *,
    is_installed: Callable[[], bool] = lambda: importlib.util.find_spec("openvino") is not None,
    capabilities: Callable[[], Sequence[str]] = lambda: load_session(OPENVINO).capabilities(),
) -> None:
    """Check that OpenVINO can be had for a model that it computes, in the precision that its configuration asks for.

    Args:
        model_folder: with config.pbtxt.
        card: of the version, which may be computed otherwise than the newest one; None: it has none.
        is_installed: says whether the package is here.
        capabilities: returns what OpenVINO says that this processor computes in.

    Raises:
        MissingCapability: it cannot.
    """
    if not (is_openvino(model_folder) if card is None else card.runtime_name == OPENVINO):
        return
    if not is_installed():
        raise MissingCapability(
            f"{model_folder.name}: OpenVINO computes it and is not installed; pip install 'resx[openvino]'"
        )
    settings: Any = load_session(OPENVINO).compile_settings
    try:
        if (precision := settings.precision(served_config(model_folder, card))) != "f32":
            settings.require_computable(precision, capabilities())
    except UsageError:  # whoever loads the model says what is wrong with it
        return
    except ValueError as error:
        raise MissingCapability(f"{model_folder.name}: {error}") from error


def require_servable(repository: Repository, models: Sequence[str] | None, wish: Wish) -> None:
    """Check before a server is started that something could be served.

    Args:
        repository: what to serve.
        models: that were named, each of which must be servable; None: all, of which one must be.
        wish: what the server is to compute on.

    Raises:
        MissingCapability: a model that was named, or every model there is, cannot be opened here.
    """
    reasons = []
    names = repository.names() if models is None else models
    for name in names:
        try:
            require_runtime(
                repository.root / name, _card(repository, name), embedded=True, device="cpu" if wish == "cpu" else None
            )
        except MissingCapability as error:
            reasons.append(error)
    if reasons and (models is not None or len(reasons) == len(names)):
        raise reasons[0]


def _card(repository: Repository, name: str) -> Card | None:
    try:
        return repository.card(name)
    except UsageError:
        return None
