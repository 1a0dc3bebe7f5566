"""Everything that decides what bytes an export writes, as one value: typed by a user, or read off a card.

Importing it needs no torch, so that an export that was made before is found at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from resx._version import __version__
from resx.card.card import Accelerator, Card
from resx.card.kinds import CalibrationMethod, InputType, Precision, Target
from resx.card.origin import SourceArguments
from resx.card.runtime import RuntimeName
from resx.card.signature import Signature, require_values
from resx.errors import UsageError
from resx.export.combinations import Combination, calibration_methods
from resx.files.listing import list_files
from resx.files.reading import read_text
from resx.files.staging import sha256_of
from resx.machine import instruction_set
from resx.values import FrozenModel
from resx.zoo.catalog import kind_of, module_of
from resx.zoo.foreign_names import HUB, TIMM, hub_folder

if TYPE_CHECKING:
    from resx.export.int8.int8_file import Int8Options
    from resx.export.options import ExportOptions
    from resx.export.reference import Exportable

_TOOLS = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy",
          "scikit-learn")  # fmt: skip
CODE = ("zoo", "data", "training", "card", "runtimes", "export")
"""The rooms that an export is made by."""
NAMED_WEIGHTS = ("none", "imagenet")
"""What is no path in place of weights."""
NUM_CALIBRATION_IMAGES = 512
"""Enough for the ranges to settle."""


class ExportRequest(FrozenModel):
    """What to export and how the file is to be; where it goes and how it is served are not part of it."""

    source: SourceArguments
    precision: Precision = "fp32"
    target: Target
    runtime: RuntimeName = "onnxruntime"
    accelerator: Accelerator | None = None
    input_type: InputType | None = None
    """None: uint8, or what a third-party file takes."""
    max_batch_size: int = 8
    verify: bool = True
    atol: float | None = None
    rtol: float | None = None
    calibrate: str = ""
    calibrate_images: int = NUM_CALIBRATION_IMAGES
    calibrate_method: CalibrationMethod = "entropy"
    keep_fp32: tuple[str, ...] = ()

    @property
    def combination(self) -> Combination:
        """How the file is computed.

        Raises:
            UsageError: what was asked for does not go together.
        """
        return Combination(
            runtime=self.runtime, precision=self.precision, target=self.target, accelerator=self.accelerator
        )


def form_request(
    source: SourceArguments,
    runtime: RuntimeName,
    precision: Precision,
    *,
    input_type: InputType | None = None,
    max_batch_size: int,
    calibrate: str,
) -> ExportRequest:
    """Return the request for one form of several of a source for the CPU, as `resx export` makes it by default.

    Args:
        source: what is exported.
        runtime: what computes the file.
        precision: in which it does.
        input_type: None: uint8, or what a third-party file takes.
        max_batch_size: the largest batch that will be served.
        calibrate: data for int8; the other precisions take none.
    """
    return ExportRequest(
        source=source,
        precision=precision,
        target="cpu",
        runtime=runtime,
        input_type=input_type,
        max_batch_size=max_batch_size,
        calibrate=calibrate if precision == "int8" else "",
        calibrate_method=calibration_methods(runtime)[0],
    )


def request_of(card: Card, source: SourceArguments) -> ExportRequest:
    """Return the request that led to a version; `source` is what its card names (`card.named_source`)."""
    made = card.quantisation
    asked = () if made is None else tuple(layer.layer for layer in made.kept_fp32 if layer.error is None)
    precision = card.precision if card.quantised_before is None else "fp32"  # that is, as the file is
    request = ExportRequest(
        source=source,
        precision=precision,
        target=card.target,
        runtime=card.runtime_name,
        accelerator=card.accelerator,
        input_type=card.input,
        max_batch_size=card.max_batch_size,
        verify=card.verified,
        keep_fp32=asked,
    )
    own_bar = {} if not card.own_bar else card.own_bar.model_dump(include={"max_abs", "max_rel"})
    request = request.model_copy(update={"atol": own_bar.get("max_abs"), "rtol": own_bar.get("max_rel")})
    if made is None:
        return request
    return request.model_copy(
        update={
            "calibrate": made.calibrate,
            "calibrate_images": made.num_asked,
            "calibrate_method": made.method,
        }
    )


def source_base(card: Card, source: SourceArguments, version_folder: Path) -> Path:
    """Return the folder that a card's relative paths are relative to: the one where its export was run.

    A card does not record it, so it is looked for: the working folder, beside the card, the repository, beside the
    repository. Code is imported from the working folder alone, whatever lies beside a card.

    Raises:
        UsageError: the paths that it names lie in none of them.
    """
    here = Path.cwd()
    named = [
        *([source.source] if card.source.kind in ("run", "onnx") else ()),
        *(str(folder) for folder in [hub_folder(source.source)] if folder is not None),
        *([source.weights] if source.weights not in NAMED_WEIGHTS else ()),
        *([source.file.labels] if source.file.labels else ()),
    ]
    made = card.quantisation
    if made is not None and made.calibrate not in ("", "digits", "random"):
        named.append(made.calibrate)
    wanted = [path for path in map(Path, named) if not path.is_absolute()]
    if not wanted or module_of(source.source):
        return here
    beside = version_folder.absolute()
    bases = list(dict.fromkeys((here, beside, *beside.parents[1:3])))
    for base in bases:
        if all((base / path).exists() for path in wanted):
            return base
    missing = next((path for path in wanted if not any((base / path).exists() for base in bases)), wanted[0])
    raise UsageError(
        f"{missing}: not found; looked in {', '.join(map(str, bases))}; run this command in the folder where "
        f"{card.name} was exported"
    )


def prepare(request: ExportRequest, on_step: Callable[[str], None]) -> tuple[Exportable, ExportOptions]:
    """Load the source and the calibration images.

    Raises:
        UsageError: something named is not there, does not fit, or is too large for memory.
        MissingCapability: published weights could not be downloaded.
    """
    from resx.export.int8.calibration import require_data
    from resx.export.options import ExportOptions
    from resx.export.sources.source import load_named

    arguments = request.source
    kind = kind_of(arguments.source)
    if request.accelerator is not None and kind == "onnx":
        from resx.export.graph.tensorrt_form import require_computable
        from resx.runtimes.onnx_reader import read_model

        require_computable(arguments.source, read_model(Path(arguments.source)))
    if request.precision == "int8" and kind != "onnx":
        require_data(request.calibrate, has_own_data=kind == "run")
    on_step(f"build {arguments.source}")
    source = load_named(arguments)
    source.require_convertible(request.precision, stored_in=request.combination.file_precision)
    if request.runtime == "openvino":
        source.require_openvino()
    if request.precision == "int8":
        require_data(request.calibrate, has_own_data=kind == "run")
    signature = source.description.signature_with(request.input_type or "uint8")
    require_values(signature, signature.batch or request.max_batch_size)
    return source, ExportOptions(
        precision=request.precision,
        target=request.target,
        runtime=request.runtime,
        accelerator=request.accelerator,
        int8=_int8_options(request, signature, on_step) if request.precision == "int8" else None,
        input_type=request.input_type or signature.input_type,
        max_batch_size=request.max_batch_size,
        seed=arguments.seed,
        verify=request.verify,
        atol=request.atol,
        rtol=request.rtol,
    )


def _int8_options(request: ExportRequest, signature: Signature, on_step: Callable[[str], None]) -> Int8Options:
    from resx.export.int8.calibration import load_calibration
    from resx.export.int8.int8_file import Int8Options

    source = request.source.source
    on_step("load calibration images")
    images = load_calibration(
        request.calibrate,
        signature,
        num_images=request.calibrate_images,
        seed=request.source.seed,
        run=Path(source) if kind_of(source) == "run" else None,
    )
    return Int8Options(
        calibration=images,
        method=request.calibrate_method,
        keep_fp32=request.keep_fp32,
        calibrate=request.calibrate,
        num_asked=request.calibrate_images,
    )


def key_of(request: ExportRequest) -> str | None:
    """Return the SHA-256 over the request, the bytes it names and the tools; equal keys give equal files.

    The processor's instruction set is part of it: parity was measured on that one.

    None where the bytes cannot be known: a function of the user's, a run whose data lie in folders, weights that a
    repository of the Hub holds today.
    """
    contents = _contents(request)
    if contents is None:
        return None
    tools = {name: version for name in _TOOLS if (version := _version_of(name))}
    made_with = [__version__, code_sha256(), instruction_set(), *(f"{name} {tool}" for name, tool in tools.items())]
    parts = [request.model_dump_json(), *made_with, *contents]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def code_sha256() -> str:
    """Return the SHA-256 over the source of the rooms that make a file: a changed resx makes another one."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for room in CODE for path in (root / room).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _contents(request: ExportRequest) -> list[str] | None:
    """Return what identifies the bytes behind the names of a request."""
    arguments = request.source
    kind = kind_of(arguments.source)
    path = Path(arguments.source)
    found: list[str] = []
    collection = arguments.source.partition(":")[0]
    if module_of(arguments.source) or collection == HUB or (collection == TIMM and arguments.weights == "imagenet"):
        return None
    if kind == "run":
        from resx.training.runs.run_origin import CONFIG, WEIGHTS
        from resx.zoo.spec import SPEC_FILE

        data = _data_of_run(path)
        if data != "digits":
            return None
        found += [_sha256_if_there(path / name) for name in (WEIGHTS, SPEC_FILE, CONFIG)]
    if kind == "onnx":
        from resx.runtimes.onnx_reader import files_of

        found += [sha256_of(file) for file in files_of(path)]
    if arguments.weights not in NAMED_WEIGHTS:
        found.append(_sha256_if_there(Path(arguments.weights)))
    if arguments.file.labels:
        found.append(_sha256_if_there(Path(arguments.file.labels)))
    calibrated = Path(request.calibrate)
    if request.calibrate and calibrated.is_dir():
        found.append(_folder_sha256(calibrated))
    elif request.calibrate not in ("", "digits", "random"):
        found.append(_sha256_if_there(calibrated))
    return found


def _data_of_run(folder: Path) -> str:
    import json

    try:
        return str(json.loads(read_text(folder / "training.json")).get("data", ""))
    except (OSError, UsageError, ValueError, AttributeError, RecursionError):
        return ""


def _sha256_if_there(path: Path) -> str:
    return sha256_of(path) if path.is_file() else "missing"


def _folder_sha256(folder: Path) -> str:
    """Return the SHA-256 over names, sizes and times below a folder: thousands of images need not be read."""
    digest = hashlib.sha256()
    for path in sorted(list_files(folder).paths):
        file = Path(path)
        facts = file.stat() if file.exists() else file.lstat()  # a link that leads nowhere
        digest.update(os.fsencode(file.relative_to(folder)) + f" {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
