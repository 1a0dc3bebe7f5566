"""How a network is to be written: what every step of an export asks."""

from __future__ import annotations

from dataclasses import dataclass

from resx.card.card import Accelerator
from resx.card.kinds import InputType, Precision, Target
from resx.card.parity_result import Tolerance
from resx.card.runtime import RuntimeName
from resx.errors import UsageError
from resx.export.checks import parity
from resx.export.combinations import Combination
from resx.export.int8.int8_file import Int8Options


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How a network is to be written."""

    precision: Precision = "fp32"
    target: Target = "cpu"
    """The runtime that the file's form is for; both compute it."""
    runtime: RuntimeName = "onnxruntime"
    """What computes the file on the CPU, and what it is verified in."""
    accelerator: Accelerator | None = None
    """What is to compute the file in place of the runtime's own kernels."""
    int8: Int8Options | None = None
    """For the precision int8, which needs it; None for the others."""
    input_type: InputType = "uint8"
    max_batch_size: int = 8
    seed: int = 0
    """Of the noise that parity is measured on."""
    verify: bool = True
    atol: float | None = None
    rtol: float | None = None
    """Bounds instead of the precision's own: on the largest difference, absolute and relative to the scale."""

    def __post_init__(self) -> None:
        _ = self.combination  # refuses what does not go together
        if not 1 <= self.max_batch_size <= 1024:
            raise UsageError(f"max_batch_size={self.max_batch_size}: give 1 to 1024 images")
        if (self.precision == "int8") != (self.int8 is not None):
            raise UsageError(f"precision {self.precision}: calibration belongs to int8, and int8 needs it")
        for name, bound in (("atol", self.atol), ("rtol", self.rtol)):
            if bound is not None and not bound > 0:
                raise UsageError(f"{name}={bound}: give a bound above 0")

    @property
    def combination(self) -> Combination:
        """How the file is computed."""
        return Combination(
            runtime=self.runtime, precision=self.precision, target=self.target, accelerator=self.accelerator
        )

    @property
    def has_own_tolerance(self) -> bool:
        """Whether the user set the tolerance."""
        return self.atol is not None or self.rtol is not None

    def tolerance_for(self, num_layers: int, source_precision: Precision) -> Tolerance:
        """Return the tolerance for the file that is made of a network with so many layers.

        Args:
            num_layers: of the network.
            source_precision: that the source's own answers are rounded to. A file in low precision, published as it is,
                is rounded otherwise by another runtime than the one that the source was asked in.
        """
        if not self.has_own_tolerance:
            as_it_is = self.precision == "fp32" and self.runtime != "onnxruntime"
            return parity.tolerance_for(source_precision if as_it_is else self.precision, num_layers)
        return Tolerance(max_abs=self.atol, max_rel=self.rtol)
