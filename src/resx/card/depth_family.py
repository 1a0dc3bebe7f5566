"""What a card says of a model that is one depth of several of a run, published together.

Members of a family NAME are models of their own, `NAME-dK` with K residual blocks. Importing this needs no torch.
"""

from __future__ import annotations

from pydantic import Field

from resx.values import FrozenModel
from resx.zoo.limits import MAX_BLOCKS


class Family(FrozenModel):
    """A member's place in its family, with the two figures that it is chosen by, both of the file itself."""

    name: str
    whole_sha256: str
    """SHA-256 of the whole network's weights; the same for all members of a run."""
    num_blocks: int = Field(ge=0, le=MAX_BLOCKS)
    """Residual blocks that are left."""
    whole_blocks: int = Field(ge=0, le=MAX_BLOCKS)
    """Blocks of the whole network."""
    accuracy: float = Field(ge=0, le=1)
    """Accuracy of the file on the held-out images."""
    accuracy_on: str
    """Source of these images."""
    num_images: int = Field(ge=0, le=100_000_000)
    latency_ms: float = Field(gt=0)
    """Median of a run at batch 1 in onnxruntime on the CPU, in turns with the other members."""
    threads: int = Field(ge=0, le=65_536)
    processor: str

    def is_like(self, other: Family) -> bool:
        """Say whether it is the same member of the same family, measured at whatever time."""
        latency = {"latency_ms", "threads", "processor"}
        return self.model_dump(exclude=latency) == other.model_dump(exclude=latency)


def member_name(family: str, num_blocks: int) -> str:
    """Return the name of a family's model with so many blocks."""
    return f"{family}-d{num_blocks}"
