"""What a load is sent to, where no server is asked: the model of `hostile_server`, images [3, 8, 8] and ten classes."""

from __future__ import annotations

from resx.bench.load.wire import Target
from resx.repository.interface import Interface
from resx.serving.client.address import Address

INTERFACE = Interface(
    input_name="image",
    input_type="UINT8",
    output_name="logits",
    num_classes=10,
    input_dims=(3, 8, 8),
    max_batch_size=4,
    parameters={},
)


def a_target(address: Address, model: str = "m") -> Target:
    """Return version 1 of the model, at an address."""
    return Target(address=address, model=model, version=None, answering=1, interface=INTERFACE)
