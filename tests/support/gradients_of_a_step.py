"""Run by test_processes.py, alone or under torchrun: one step in FP64; the first process writes what came of it."""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from resx.training.processes import average_gradients, join_processes, mean_over_processes, share_batch_statistics
from resx.zoo.building import build_from_spec
from resx.zoo.catalog import variant


def main(name: str, target: str) -> None:
    torch.set_num_threads(1)
    with join_processes("cpu") as processes:
        model = build_from_spec(variant(name).spec.with_changes(survival=0.3), seed=0).double()
        if processes.count > 1:
            share_batch_statistics(model)
        torch.manual_seed(5)
        images, targets = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.arange(8) % 10
        part = processes.part(8)
        torch.manual_seed(6)  # drops the same blocks everywhere
        loss = F.cross_entropy(model(images[part]), targets[part])
        loss.backward()
        average_gradients(model, processes)
        value = mean_over_processes(loss, processes)
        gradients = {f"gradient.{key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
        if processes.is_first:
            save_file(gradients | model.state_dict() | {"loss": value}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
