"""Write the int8 file: calibrate the fp32 file, quantise it, and leave in fp32 what the bar needs.

onnxruntime and OpenVINO run different int8 files fast, so each has its recipe: onnxruntime.quantization's
(`quantization`) and NNCF's (`nncf_quantization`). What they share is here: the images, the search for the layers that
int8 harms, and what the card says.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import onnx

from resx.card.kinds import CalibrationMethod, Target
from resx.card.parity_result import Parity
from resx.card.precision import KeptLayer, Quantisation
from resx.card.runtime import RuntimeName
from resx.card.signature import Signature
from resx.errors import ParityError, UsageError
from resx.export.int8 import calibration as calibrations
from resx.export.int8 import nncf_quantization, quantization, sensitivity
from resx.export.int8.calibration import Calibration, Ranges
from resx.export.int8.nncf_quantization import Validation
from resx.runtimes import onnx_reader
from resx.runtimes.onnxruntime_model import onnxruntime_version

_SEARCH = "find the layers most sensitive to int8"
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
    runtime: RuntimeName
    describe: Callable[[onnx.ModelProto], None]
    """Writes into the finished file what it is."""


def write_int8(
    fp32_file: Path,
    path: Path,
    options: Int8Options,
    form: FileForm,
    *,
    judge: Callable[[Path], Parity] | None,
    validation: Validation | None,
    on_step: Callable[[str], None],
) -> Quantisation:
    """Write the int8 form of the fp32 file to `path`.

    Args:
        fp32_file: as `write_onnx` wrote it for the same target.
        path: not the same file.
        options: how.
        form: what the file is besides.
        judge: measures a file; where it does not pass, the fewest layers that help are kept in fp32. None
            takes the file as it comes.
        validation: for OpenVINO: where accuracy on it falls by more than a point, NNCF puts layers back. None: no
            classes are known, or nothing is to be measured.
        on_step: is told what begins.

    Raises:
        ParityError: keeping half of the layers does not suffice.
        UsageError: a pattern matches no node.
        MissingCapability: it is for OpenVINO, and NNCF is not installed.
        ExportError: the library could not quantise it.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        writer, graph = _open_writer(fp32_file, Path(folder) / "prepared.onnx", path, options, form, on_step)
        on_step(writer.recipe.step)
        model, found, num_tried = writer.write([]), list[KeptLayer](), 0
        verdict = judge(path) if judge else None
        if judge and verdict and not verdict.passed:
            on_step(_SEARCH)
            found, num_tried = _search(writer, _rank(writer, model, options), judge, verdict, on_step)
            model = writer.write([layer.layer for layer in found])
        restored = _restore_accuracy(writer, model, options, found, validation, on_step)
        if restored:
            model = onnx.load(path)
        return _quantisation(writer, graph, model, options, found=found, restored=restored, num_tried=num_tried)


def _open_writer(
    fp32_file: Path,
    prepared: Path,
    path: Path,
    options: Int8Options,
    form: FileForm,
    on_step: Callable[[str], None],
) -> tuple[_Int8Writer, onnx.ModelProto]:
    """Write the graph that is quantized to `prepared`; return it, with what writes int8 files of it."""
    quantization.prepare(fp32_file, prepared, target=form.target, runtime=form.runtime)
    graph = onnx.load(prepared)
    num_weights, _ = onnx_reader.weight_counts(graph)
    if not quantization.layers(graph) or not num_weights:
        raise UsageError("--int8: the model has no convolution or matrix product with weights; remove --int8")
    asked = quantization.matching(graph, options.keep_fp32)
    choose = _nncf_recipe if form.runtime == "openvino" else _onnxruntime_recipe
    recipe = choose(prepared, options, form, on_step)
    return _Int8Writer(prepared=prepared, path=path, recipe=recipe, form=form, asked=tuple(asked)), graph


def _quantisation(
    writer: _Int8Writer,
    graph: onnx.ModelProto,
    model: onnx.ModelProto,
    options: Int8Options,
    *,
    found: Sequence[KeptLayer],
    restored: Sequence[KeptLayer],
    num_tried: int,
) -> Quantisation:
    """Return what the card says of `model`, which was made of `graph`."""
    recipe, calibration = writer.recipe, options.calibration
    num_weights, _ = onnx_reader.weight_counts(graph)
    asked = (KeptLayer(layer=name, error=None) for name in writer.asked)
    return Quantisation(
        calibrate=options.calibrate,
        num_asked=options.num_asked,
        calibrated_on=calibration.origin,
        data_sha256=calibration.sha256,
        num_images=len(calibration.images),
        is_random=calibration.is_random,
        method=options.method,
        tool=recipe.tool,
        tool_version=recipe.tool_version,
        table_key=recipe.table_key,
        num_layers=len(quantization.layers(graph)),
        kept_fp32=(*asked, *found, *restored),
        kept_by_accuracy=len(restored),
        num_tried=num_tried,
        int8_share=min(1.0, quantization.num_int8_weights(model) / num_weights),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recipe:
    """What quantizes the prepared file."""

    step: str
    quantise: Callable[[Collection[str], Validation | None], onnx.ModelProto]
    """Takes the nodes that stay in fp32, and by what more of them are chosen."""
    tool: Literal["onnxruntime", "nncf"]
    tool_version: str
    table_key: str = ""


def _onnxruntime_recipe(
    prepared: Path, options: Int8Options, form: FileForm, on_step: Callable[[str], None]
) -> _Recipe:
    key = calibrations.table_key(prepared, options.calibration, options.method)
    ranges = _ranges(prepared, key, options, form, on_step)
    return _Recipe(
        step="quantize the weights",
        quantise=lambda kept, _: quantization.quantise(prepared, ranges, target=form.target, keep_fp32=kept),
        tool="onnxruntime",
        tool_version=onnxruntime_version(),
        table_key=key,
    )


def _nncf_recipe(prepared: Path, options: Int8Options, form: FileForm, on_step: Callable[[str], None]) -> _Recipe:
    nncf_quantization.load_nncf()
    images, signature = options.calibration.images, form.signature
    size = signature.batch or 1  # its statistics are of one image at a time, where the file takes one
    feeds = [{signature.input_name: batch} for batch in quantization.batches(images, signature, size=size)]
    step = f"calibrate on {len(images)} images ({options.method}) and quantize with NNCF"

    def quantise(kept: Collection[str], validation: Validation | None) -> onnx.ModelProto:
        return nncf_quantization.quantise(
            prepared,
            feeds,
            options.method,
            keep_fp32=kept,
            validation=validation,
            on_progress=lambda text: on_step(f"{step}: {text}"),
        )

    return _Recipe(step=step, quantise=quantise, tool="nncf", tool_version=metadata.version("nncf"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Int8Writer:
    """Writes the file, with more or fewer layers in fp32."""

    prepared: Path
    path: Path
    recipe: _Recipe
    form: FileForm
    asked: tuple[str, ...]
    """Layers that the user wants in fp32."""

    def write(self, kept: Sequence[str], validation: Validation | None = None) -> onnx.ModelProto:
        """Write it with these layers in fp32 too."""
        model = self.recipe.quantise([*self.asked, *kept], validation)
        self.form.describe(model)
        onnx.checker.check_model(model, full_check=True)
        onnx_reader.write_model(model, self.path)
        return model


def _restore_accuracy(
    writer: _Int8Writer,
    model: onnx.ModelProto,
    options: Int8Options,
    found: Sequence[KeptLayer],
    validation: Validation | None,
    on_step: Callable[[str], None],
) -> list[KeptLayer]:
    """Write the file again with layers put back until accuracy is kept, and return them; none where it is."""
    if validation is None or writer.form.runtime != "openvino":
        return []
    on_step(step := f"measure accuracy on {len(validation.classes)} images")
    drop = nncf_quantization.accuracy_drop(writer.prepared, model, validation)
    if drop <= nncf_quantization.LARGEST_DROP:
        return []
    on_step(f"{step}: {drop:.1%} lost; find the layers")
    restored = writer.write([layer.layer for layer in found], validation)
    ranking = _rank(writer, model, options)
    back = nncf_quantization.layers_in_fp32(restored, [layer.layer for layer in ranking])
    known = {layer.layer for layer in found}
    if len(back) > _most(ranking):
        raise ParityError(f"int8: accuracy falls by {drop:.1%}, and {len(back)} of {len(ranking)} layers cause it")
    return [layer for layer in ranking if layer.layer in back and layer.layer not in known]


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
    most, counting = _most(ranking), itertools.count(1)

    def passes(kept: Sequence[str]) -> bool:
        on_step(f"{_SEARCH}: file {next(counting)}, {len(kept)} of {len(ranking)} layers in fp32")
        writer.write(kept)
        return judge(writer.path).passed

    found = sensitivity.fewest([layer.layer for layer in ranking[:most]], passes)
    if found is None:
        raise ParityError(
            f"int8: top-1 agreement {verdict.top1_agreement:.1%}, cosine {verdict.cosine or 0.0:.4f}, and keeping the "
            f"{most} most sensitive of {len(ranking)} layers in fp32 is not enough to pass"
        )
    kept, num_tried = found
    return [layer for layer in ranking if layer.layer in kept], num_tried


def _most(ranking: Sequence[KeptLayer]) -> int:
    return max(1, int(_LARGEST_KEPT_SHARE * len(ranking)))


def _ranges(prepared: Path, key: str, options: Int8Options, form: FileForm, on_step: Callable[[str], None]) -> Ranges:
    known = calibrations.read_kept_table(key)
    if known is not None:
        on_step("reuse the calibration of an earlier export")
        return known
    images = options.calibration.images
    on_step(step := f"calibrate on {len(images)} images ({options.method})")
    found = quantization.find_ranges(
        prepared, images, options.method, form.signature, on_progress=lambda text: on_step(f"{step}: {text}")
    )
    calibrations.keep_table(key, found)
    return found
