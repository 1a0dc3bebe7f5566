"""Write the int8 file: calibrate the fp32 file, quantise it, and leave in fp32 what the bar needs."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from resx.card.kinds import CalibrationMethod, Target
from resx.card.parity_result import Parity
from resx.card.precision import KeptLayer, Quantisation
from resx.card.signature import Signature
from resx.errors import ParityError, UsageError
from resx.export.int8 import calibration as calibrations
from resx.export.int8 import quantization, sensitivity
from resx.export.int8.calibration import Calibration, Ranges
from resx.runtimes import onnx_reader

_SEARCH = "find the layers that int8 harms"
_NUM_RANKING_IMAGES = 8
_LARGEST_KEPT_SHARE = 0.5
"""Of the layers: with more of them in fp32 the file would be int8 in name only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Options:
    """How the network is to be quantised."""

    calibration: Calibration
    method: CalibrationMethod = "entropy"
    keep_fp32: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of names of nodes that stay in fp32."""
    calibrate: str = ""
    """For the card: what was typed, and how many images were wanted."""
    num_asked: int = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class FileForm:
    """What the file is besides being int8."""

    signature: Signature
    target: Target
    describe: Callable[[onnx.ModelProto], None]
    """Writes into the finished file what it is."""


def write_int8(
    fp32_file: Path,
    path: Path,
    options: Int8Options,
    form: FileForm,
    *,
    judge: Callable[[Path], Parity] | None,
    on_step: Callable[[str], None],
) -> Quantisation:
    """Write the int8 form of the fp32 file to `path`.

    Args:
        fp32_file: as `write_onnx` wrote it for the same target.
        path: not the same file.
        judge: measures a file; where it does not pass, the fewest layers that help are kept in fp32. None
            takes the file as it comes.
        on_step: is told what begins.

    Raises:
        ParityError: keeping half of the layers does not suffice.
        UsageError: a pattern matches no node.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        quantization.prepare(fp32_file, prepared, target=form.target)
        graph = onnx.load(prepared)
        num_weights, _ = onnx_reader.weight_counts(graph)
        if not quantization.layers(graph) or not num_weights:
            raise UsageError("--int8: no convolution or matrix product with weights in it; leave --int8 out")
        asked = quantization.matching(graph, options.keep_fp32)
        key = calibrations.table_key(prepared, options.calibration, options.method)
        ranges = _ranges(prepared, key, options, form, on_step)
        writer = _Int8Writer(prepared=prepared, path=path, ranges=ranges, form=form, asked=tuple(asked))
        on_step("quantise")
        model, found, num_tried = writer.write([]), list[KeptLayer](), 0
        verdict = judge(path) if judge else None
        if judge and verdict and not verdict.passed:
            on_step(_SEARCH)
            ranking = _rank(writer, model, options)
            found, num_tried = _search(writer, ranking, judge, verdict, on_step)
            model = writer.write([layer.layer for layer in found])
        return Quantisation(
            calibrate=options.calibrate,
            num_asked=options.num_asked,
            calibrated_on=options.calibration.origin,
            data_sha256=options.calibration.sha256,
            num_images=len(options.calibration.images),
            is_random=options.calibration.is_random,
            method=options.method,
            table_key=key,
            num_layers=len(quantization.layers(graph)),
            kept_fp32=(*(KeptLayer(layer=name, error=None) for name in asked), *found),
            num_tried=num_tried,
            int8_share=min(1.0, quantization.num_int8_weights(model) / num_weights),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Int8Writer:
    """Writes the file, with more or fewer layers in fp32."""

    prepared: Path
    path: Path
    ranges: Ranges
    form: FileForm
    asked: tuple[str, ...]
    """Layers that the user wants in fp32."""

    def write(self, kept: Sequence[str]) -> onnx.ModelProto:
        """Write it with these layers in fp32 too."""
        model = quantization.quantise(
            self.prepared, self.ranges, target=self.form.target, keep_fp32=[*self.asked, *kept]
        )
        self.form.describe(model)
        onnx.checker.check_model(model, full_check=True)
        onnx_reader.write_model(model, self.path)
        return model


def _rank(writer: _Int8Writer, model: onnx.ModelProto, options: Int8Options) -> list[KeptLayer]:
    """Return the layers by how much int8 harms them, but for those in fp32 already."""
    images = options.calibration.images
    telling = images[~calibrations.is_one_color(images)][:_NUM_RANKING_IMAGES]  # black frames rank nothing
    batches = quantization.batches(telling if len(telling) else images[:_NUM_RANKING_IMAGES], writer.form.signature)
    ranking = sensitivity.rank_layers(writer.prepared, model, batches)
    return [layer for layer in ranking if layer.layer not in writer.asked]


def _search(
    writer: _Int8Writer,
    ranking: Sequence[KeptLayer],
    judge: Callable[[Path], Parity],
    verdict: Parity,
    on_step: Callable[[str], None],
) -> tuple[list[KeptLayer], int]:
    """Return the layers to keep in fp32 and how many files were measured to find them."""
    most, counting = max(1, int(_LARGEST_KEPT_SHARE * len(ranking))), itertools.count(1)

    def passes(kept: Sequence[str]) -> bool:
        on_step(f"{_SEARCH}: file {next(counting)}, {len(kept)} of {len(ranking)} layers in fp32")
        writer.write(kept)
        return judge(writer.path).passed

    found = sensitivity.fewest([layer.layer for layer in ranking[:most]], passes)
    if found is None:
        raise ParityError(
            f"int8: top-1 agreement {verdict.top1_agreement:.1%}, cosine {verdict.cosine or 0.0:.4f}, and keeping the "
            f"{most} most sensitive of {len(ranking)} layers in fp32 does not bring it over the bar"
        )
    kept, num_tried = found
    return [layer for layer in ranking if layer.layer in kept], num_tried


def _ranges(prepared: Path, key: str, options: Int8Options, form: FileForm, on_step: Callable[[str], None]) -> Ranges:
    known = calibrations.read_kept_table(key)
    if known is not None:
        on_step("take the calibration table of an earlier export")
        return known
    images = options.calibration.images
    on_step(step := f"calibrate on {len(images)} images ({options.method})")
    found = quantization.find_ranges(
        prepared, images, options.method, form.signature, on_progress=lambda text: on_step(f"{step}: {text}")
    )
    calibrations.keep_table(key, found)
    return found
