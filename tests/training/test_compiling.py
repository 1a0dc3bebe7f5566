"""torch.compile in training: the same numbers, blocks and names as without it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resx.training.compiling import Forward, compiled_forward
from resx.zoo.building import build_from_spec
from resx.zoo.families.stochastic_depth import StochasticBranch
from resx.zoo.spec import ModelSpec


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients_of(model: nn.Module, forward: Forward, seed: int) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    loss = F.cross_entropy(forward(torch.randn(4, 3, 16, 16)), torch.arange(4))
    loss.backward()
    return float(loss.item()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler, as is the other
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("survival", [1.0, 0.3])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step_drops_the_same_blocks_and_gives_the_same_gradients(
    small_spec: ModelSpec, survival: float, backend: str
) -> None:
    model = build_from_spec(small_spec.with_changes(survival=survival), seed=0).train()
    names = list(model.state_dict())
    dropped = set()
    with compiled_forward(model, backend=backend) as forward:
        for seed in range(4):
            loss, gradients = gradients_of(model, model, seed)
            compiled_loss, compiled_gradients = gradients_of(model, forward, seed)
            assert compiled_loss == pytest.approx(loss, rel=1e-4)
            assert compiled_gradients.keys() == gradients.keys()
            dropped.add(len(gradients))
            for name, expected in gradients.items():
                torch.testing.assert_close(compiled_gradients[name], expected, rtol=1e-2, atol=1e-3)
    assert (len(dropped) > 1) == (survival < 1)
    assert list(model.state_dict()) == names
    assert not any("joined" in vars(block) for block in model.modules() if isinstance(block, StochasticBranch))


@pytest.mark.slow
def test_without_a_compiler_it_is_exit_code_4_and_no_run(tmp_path: Path) -> None:
    environment = os.environ | {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "resx", "train", "resnet20", "--compile", "--device", "cpu", "-o"]
    done = subprocess.run(
        [*command, str(tmp_path / "run")], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 4, done.stderr
    assert "error: --compile: torch.compile does not work here" in done.stderr.splitlines()[-1]
    assert "remove --compile" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
