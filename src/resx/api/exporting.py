"""Export: a verified file, published as the next version of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resx.api.checked_values import refusals_in_one_line, require_at_least
from resx.api.places import repository_at
from resx.api.written_call import written_call
from resx.errors import UsageError
from resx.names import choose
from resx.repository.versions import DEFAULT, Repository

if TYPE_CHECKING:
    from resx.card.card import Card
    from resx.card.kinds import CalibrationMethod, ChannelOrder, InputType, Layout, PixelMax, Precision, Target
    from resx.card.origin import FileArguments
    from resx.card.parity_result import Parity
    from resx.card.runtime import RuntimeName


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A published version."""

    folder: Path
    """Of the version: `REPOSITORY/NAME/VERSION`."""
    file: Path
    """The model file in it."""
    name: str
    version: int
    precision: Precision
    verified: bool
    """Whether it was compared with its source."""
    steps: tuple[Parity, ...]
    """Each step of the export, with its largest difference, tolerance and verdict."""
    reused: bool
    """Whether an earlier export of the same was taken."""
    card: Card
    """All that is known of it, as card.json holds it."""


def export(
    source: str | Path,
    *,
    name: str = "",
    repository: Repository | Path | str = DEFAULT,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    calibrate: str = "",
    calibrate_images: int = 512,
    calibrate_method: CalibrationMethod | None = None,
    keep_fp32: Sequence[str] = (),
    input_type: InputType | None = None,
    target: Target | None = None,
    runtime: RuntimeName | None = None,
    weights: str = "none",
    weights_entry: str = "",
    settings: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    mean: str = "",
    std: str = "",
    layout: Layout | None = None,
    channels: ChannelOrder = "rgb",
    pixel_max: PixelMax = 1,
    labels: str = "",
    output_name: str = "",
    max_batch: int = 8,
    instances: int = 1,
    threads: int = 0,
    max_queue: int = -1,
    response_cache: bool = False,
    image_endpoint: bool = False,
    verify: bool = True,
    atol: float | None = None,
    rtol: float | None = None,
    force: bool = False,
    seed: int = 0,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Exported:
    """Export to ONNX, verify the file against PyTorch and publish it, as `resx export` does.

    After any error the repository is as it was. TensorRT's formats are left to the command.

    Args:
        source: a variant, a run's folder, an .onnx file, `torchvision:NAME`, `timm:NAME`, `hf:ORG/NAME` or
            `module:function`.
        name: in the repository. Default: the variant's, the run's or the file's.
        repository: the model repository.
        fp16: store and compute in half precision.
        bf16: compute in bfloat16; on the CPU by OpenVINO.
        int8: compute on 8-bit integers, calibrated on real images.
        calibrate: for int8: `digits`, a folder, an .npz file or `random`. Default: the run's training images.
        calibrate_images: how many of them.
        calibrate_method: `entropy`, `minmax`, `percentile` or `mean`. None: the runtime's usual one.
        keep_fp32: for int8: layers that stay fp32, such as `layer4.*`.
        input_type: `uint8` (normalized in the graph) or `float32`. None: uint8, or the .onnx file's.
        target: optimize for `cpu` or `gpu`. None: what is here.
        runtime: `onnxruntime` or `openvino`. None: onnxruntime, but for bf16 on the CPU.
        weights: of a variant, `torchvision:` or `timm:`: `none` (random), `imagenet` or a file.
        weights_entry: which network of a file of weights.
        settings: `classes=N`, or `FIELD=VALUE` of the variant's architecture.
        image_size: pixels, for a network or file that does not say; height and width for an .onnx file alone.
        mean: `R,G,B`, for an .onnx file of float images: of pixels from 0 to `pixel_max`.
        std: as `mean`.
        layout: of an .onnx file's input: `nchw` or `nhwc`. None: by its shape.
        channels: of an .onnx file's input: `rgb` or `bgr`.
        pixel_max: of an .onnx file's input: what white is, 1 or 255.
        labels: for an .onnx file: a text file with one label a line.
        output_name: for an .onnx file: which of its outputs to keep.
        max_batch: the largest batch that will be served.
        instances: of the model on the server.
        threads: per instance; 0: the server's cores divided by the instances.
        max_queue: requests that may wait; 0: no bound, -1: four batches.
        response_cache: answer repeated requests from memory.
        image_endpoint: also publish `NAME_image`, which takes image files.
        verify: compare the file with its source.
        atol: largest difference, absolute. None: the precision's own tolerance.
        rtol: largest difference, relative to the logits' scale.
        force: export again what was exported already.
        seed: of random weights and of what is compared.
        on_step: called with the name of each step when it begins.

    Raises:
        UsageError: something named cannot be used, or the name's versions have another interface.
        ParityError: the file does not compute what its source computes.
        ExportError: the network cannot be exported so.
        MissingCapability: a package, a processor feature or a download is missing.
    """
    from resx.card.kinds import INPUT_TYPES
    from resx.card.origin import FileArguments, SourceArguments
    from resx.card.runtime import RUNTIMES
    from resx.export.combinations import calibration_methods, require_computable, usual_runtime
    from resx.export.request import ExportRequest
    from resx.repository import publishing
    from resx.repository.config_pbtxt import ServingOptions
    from resx.zoo.catalog import default_name

    command = written_call(export, locals())
    text = str(source)
    precision, meant = _precision(fp16=fp16, bf16=bf16, int8=int8), _target(target, runtime)
    wanted_input = choose("input_type", input_type, INPUT_TYPES) if input_type else None
    runs_in = choose("runtime", runtime, RUNTIMES) if runtime else usual_runtime(precision, meant)
    methods = calibration_methods(runs_in)
    require_at_least(1, max_batch=max_batch, calibrate_images=calibrate_images)
    with refusals_in_one_line():
        request = ExportRequest(
            source=SourceArguments(
                source=text,
                weights=weights,
                seed=seed,
                image_size=image_size,
                settings=tuple(settings),
                weights_entry=weights_entry,
                file=_file_arguments(
                    text,
                    FileArguments(
                        layout=layout, channels=channels, pixel_max=pixel_max, labels=labels, output=output_name
                    ),
                    mean=mean,
                    std=std,
                ),
            ),
            precision=precision,
            target=meant,
            runtime=runs_in,
            input_type=wanted_input,
            max_batch_size=max_batch,
            verify=verify,
            atol=atol,
            rtol=rtol,
            calibrate=calibrate,
            calibrate_images=calibrate_images,
            calibrate_method=choose("calibrate_method", calibrate_method or methods[0], methods),
            keep_fp32=tuple(keep_fp32),
        )
    require_computable(request.combination)
    serving = ServingOptions(
        instances=instances,
        threads=threads,
        max_queue_size=max_queue,
        response_cache=response_cache,
        image_endpoint=image_endpoint,
    )
    into = repository_at(repository)
    called = name or default_name(text)
    publishing.require_one_format(into, called, builder=None)
    made = None if force else publishing.publish_earlier(into, request, serving, name=called, command=command)
    card, version = made or publishing.publish_request(
        into, request, serving, name=called, command=command, on_step=on_step
    )
    return Exported(
        folder=version.folder,
        file=version.folder / card.model_file,
        name=version.name,
        version=version.version,
        precision=card.precision,
        verified=card.verified,
        steps=card.steps,
        reused=made is not None,
        card=card,
    )


def _precision(*, fp16: bool, bf16: bool, int8: bool) -> Precision:
    """Return the one precision that was asked for, or fp32."""
    asked: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "int8": int8}
    wanted = [precision for precision, is_asked in asked.items() if is_asked]
    if len(wanted) > 1:
        raise UsageError(f"{', '.join(wanted)}: a file has one precision; choose one")
    return wanted[0] if wanted else "fp32"


def _target(target: Target | None, runtime: RuntimeName | None) -> Target:
    from resx.card.kinds import TARGETS

    if target:
        return choose("target", target, TARGETS)
    if runtime == "openvino":
        return "cpu"
    from resx.runtimes.onnxruntime_model import default_target

    return default_target()


def _file_arguments(source: str, said: FileArguments, *, mean: str, std: str) -> FileArguments:
    """Return what a third-party file does not say itself.

    Raises:
        UsageError: the source is no .onnx file and something is said, or mean or std are no three numbers.
    """
    from resx.card.origin import FileArguments
    from resx.zoo.catalog import kind_of
    from resx.zoo.spec import parse_channels

    if kind_of(source) != "onnx" and (mean or std or said != FileArguments()):
        raise UsageError(
            f"mean, std, layout, channels, pixel_max, labels, output_name: {source} has its own; these are for .onnx "
            "files"
        )
    return said.model_copy(
        update={
            "mean": parse_channels("mean", mean, is_std=False) if mean else None,
            "std": parse_channels("std", std, is_std=True) if std else None,
        }
    )
