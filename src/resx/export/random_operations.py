"""Find the operation by which a network of PyTorch answers differently when it is asked again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    """Notes the first operation that draws random numbers, and the module that it ran in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = ""
        self.modules: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation."""
        if not self.found and torch.Tag.nondeterministic_seeded in func.tags:
            where = self.modules[-1] if self.modules else ""
            self.found = f"{func.overloadpacket.__name__}{f' in {where}' if where else ''}"
        return func(*args, **(kwargs or {}))


def random_operation(model: nn.Module, run: Callable[[], object]) -> str:
    """Return the first random operation of a run and its module, as `native_dropout in layer1.0`; empty if none drew.

    Args:
        model: whose modules are named.
        run: runs the model once.
    """
    recorder = _Recorder()

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: recorder.modules.append(name)

    def leave(*_: object) -> None:
        recorder.modules.pop()

    hooks = []
    for name, module in model.named_modules():
        label = f"{name} ({type(module).__name__})" if name else type(module).__name__
        hooks += [module.register_forward_pre_hook(enter(label)), module.register_forward_hook(leave)]
    try:
        with recorder:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.found
