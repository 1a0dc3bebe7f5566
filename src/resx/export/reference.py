"""What every form of a source is held to during an export: its reference answers, and the checks against them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resx.card.kinds import OutputKind
from resx.card.output_kind import is_squashed, kind_of_answers
from resx.card.parity_result import Parity, Tolerance
from resx.card.runtime import PrecisionHint
from resx.card.signature import Signature
from resx.export.checks import parity
from resx.export.checks.accuracy import right_answers
from resx.export.checks.row_independence import (
    BOUNDS,
    Subject,
    locate_difference,
    random_answers,
    require_own_answers,
    trial_rows,
)
from resx.export.options import ExportOptions
from resx.export.sources.onnx_files import LoadedFile
from resx.export.sources.source import LoadedSource
from resx.runtimes.model_file import CpuModel, open_file

Exportable: TypeAlias = LoadedSource | LoadedFile
"""What an export begins with: both can be checked, asked, folded and written."""

_SOURCE_BATCH = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A source and its answers to chosen images, which what is made of it as the options say must give too."""

    source: Exportable
    options: ExportOptions
    name: str
    """Of what is exported."""
    signature: Signature
    batches: tuple[parity.Images, ...]
    answers: tuple[parity.Logits, ...]
    """To `batches`; empty where nothing is to be verified."""
    noise: tuple[parity.Images, ...]
    """For the fp32 form of int8, which is compared on real images alone."""
    rows: npt.NDArray[np.uint8]
    """Very different ones, to be tried alone and in company."""

    @property
    def tolerance(self) -> Tolerance:
        """Of the file."""
        return self.options.tolerance_for(self.source.num_layers, self.source.computes_in)

    @property
    def _step(self) -> str:
        """What the check of the finished file is called: by the runtime, where that decides what it computes in."""
        options = self.options
        if options.runtime == "onnxruntime":
            return "onnx"
        is_int8 = "int8" in (options.precision, self.source.computes_in)
        return f"OpenVINO {'int8' if is_int8 else options.combination.precision_hint}"

    def open(self, path: Path, precision_hint: PrecisionHint | None = None) -> CpuModel:
        """Open a file that was made of the source in the runtime that is to serve it.

        Args:
            path: of the file.
            precision_hint: other than the finished file's.
        """
        options = self.options
        return open_file(path, options.runtime, precision_hint or options.combination.precision_hint)

    def require_network(self, step: str, network: Exportable) -> list[Parity]:
        """Hold a network that was made of the source to fp32's bound; no step where nothing is to be verified.

        Raises:
            ParityError: it computes something else.
        """
        if not self.answers:
            return []
        answers = [network.logits(batch) for batch in self.batches]
        return [parity.require(parity.compare(step, self.answers, answers, parity.STRUCTURE), name=self.name)]

    def require_structure(self, path: Path) -> list[Parity]:
        """Hold the fp32 file that low precision is made of to fp32's bound: its own would hide a small fault.

        Raises:
            ParityError: the file computes something else, or a row's answer is not its own.
        """
        session = self.open(path, "f32")
        self._require_own_answers(session, path, BOUNDS[self.source.computes_in])
        if not self.answers:
            return []
        expected = [*(self.source.logits(batch) for batch in self.noise), *self.answers]
        answers = [session(self.signature.as_input(batch)) for batch in (*self.noise, *self.batches)]
        return [parity.require(parity.compare("fp32 file", expected, answers, parity.STRUCTURE), name=self.name)]

    def measure(self, path: Path) -> Parity:
        """Compare a file, in a fresh session, with the source."""
        session = self.open(path)
        answers = [session(self.signature.as_input(batch)) for batch in self.batches]
        classes = self.source.real.classes if self.options.precision == "int8" else None
        step = self._step
        found = parity.compare(step, self.answers, answers, self.tolerance, classes=classes)
        if found.passed or self.options.has_own_tolerance or self.options.precision not in ("fp16", "bf16"):
            return found
        return parity.compare(step, self.answers, answers, self._tolerance_of_rounding(), classes=classes)

    def _tolerance_of_rounding(self) -> Tolerance:
        """Return the tolerance, wider where rounding alone does more to this network than to others."""
        rounded = self.source.rounded(self.options.precision)
        if rounded is None:
            return self.tolerance
        answers = [rounded.logits(batch) for batch in self.batches]
        alone = parity.compare("rounding", self.answers, answers, self.tolerance)
        return parity.widen(self.tolerance, alone)

    def require_file(self, path: Path) -> list[Parity]:
        """Hold the finished file to all that is asked of its precision.

        Raises:
            ParityError: it misses a bound, loses accuracy, or a row's answer is not its own.
        """
        session = self.open(path)
        self._require_own_answers(session, path, max(BOUNDS[self.options.precision], BOUNDS[self.source.computes_in]))
        if not self.answers:
            return []
        found = parity.require(self.measure(path), name=self.name)
        labelled = self.source.labelled
        if labelled is None or self.options.precision == "fp32":
            return [found]
        before = right_answers(self.source.logits, labelled, batch_size=self.signature.batch or _SOURCE_BATCH)
        after = right_answers(
            lambda images: session(self.signature.as_input(images)),
            labelled,
            batch_size=self.signature.batch or self.options.max_batch_size,
        )
        return [parity.require(parity.with_accuracy(found, before, after), name=self.name)]

    def output_kind(self, path: Path) -> OutputKind:
        """Return what the output of a file is, by its graph and its answers to the rows."""
        from resx.runtimes.onnx_reader import read_model

        session = self.open(path)
        size = self.signature.batch or 1
        rows = np.resize(self.rows, (-(-len(self.rows) // size) * size, *self.rows.shape[1:]))
        answers = [session(self.signature.as_input(rows[start : start + size])) for start in range(0, len(rows), size)]
        return kind_of_answers(np.concatenate(answers), squashed=is_squashed(read_model(path)))

    def _require_own_answers(self, session: CpuModel, path: Path, bound: float) -> None:
        subject = Subject(
            ask=session,
            name=self.name,
            signature=self.signature,
            max_batch_size=self.options.max_batch_size,
            bound=bound,
            onnx_file=path,
        )
        require_own_answers(subject, self.rows)


def ask_source(source: Exportable, options: ExportOptions, *, name: str) -> Reference:
    """Choose the images and ask the source for its answers to them.

    Raises:
        ParityError: the source answers at random.
    """
    signature = source.description.signature_with(options.input_type)

    def choose(real: parity.Images, *, with_noise: bool) -> tuple[parity.Images, ...]:
        size, seed = options.max_batch_size, options.seed
        return tuple(parity.images_for(signature, real=real, max_batch_size=size, seed=seed, with_noise=with_noise))

    rows = trial_rows(signature, source.real.images, seed=options.seed)
    _require_repeatable(source, np.resize(rows, (signature.batch or 1, *rows.shape[1:])), name)
    is_int8 = options.precision == "int8"
    batches = choose(source.real.images, with_noise=not is_int8)
    return Reference(
        source=source,
        options=options,
        name=name,
        signature=signature,
        batches=batches,
        answers=tuple(source.logits(batch) for batch in batches) if options.verify else (),
        noise=choose(source.real.images[:0], with_noise=True) if is_int8 else (),
        rows=rows,
    )


def _require_repeatable(source: Exportable, batch: parity.Images, name: str) -> None:
    """Refuse a source that draws random numbers, or that answers differently when it is asked again."""
    drawing = source.random_operation(batch)
    first, again = source.logits(batch), source.logits(batch)
    bound = BOUNDS[source.computes_in]
    if drawing or np.abs(first - again).max() > bound * np.abs(first).max():
        if not drawing and isinstance(source, LoadedFile):
            given = source.signature.as_input(batch)
            drawing = locate_difference(source.graph, given, given, bound=bound)
        raise random_answers(name, drawing)
