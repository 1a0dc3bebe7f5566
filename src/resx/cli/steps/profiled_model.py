"""What `resx profile` is given, as what can be measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.profiling import Profiling
from resx.errors import UsageError, nearest
from resx.names import parse_name

if TYPE_CHECKING:
    from resx.repository.versions import Repository
    from resx.runtimes.profiling.measuring import ProfileOptions, Subject


def find_subject(
    text: str, repository: Repository, wanted: Profiling, on_step: Callable[[str], None]
) -> tuple[Subject, ProfileOptions]:
    """Return an .onnx file, a version of the repository, or a run or variant, exported in fp32 as `resx export` does.

    Raises:
        UsageError: it is none of them, or nothing that is run on the CPU.
    """
    from resx.runtimes.onnx_reader import read_model
    from resx.runtimes.profiling.onnx_source import onnx_subject
    from resx.zoo.catalog import VARIANTS, names_onnx_file
    from resx.zoo.spec import SPEC_FILE

    if names_onnx_file(text):
        options = wanted.options()
        return onnx_subject(read_model(Path(text)), options, text), options
    if Path(text).suffix in (".plan", ".engine"):
        raise _refuse_engine(text)
    if (Path(text) / SPEC_FILE).is_file():
        return _exported(text, wanted, on_step)
    name, version = parse_name(text)
    if name in repository.names() or repository.is_endpoint(name):
        return _published(name, version, repository, wanted)
    if text in VARIANTS:
        return _exported(text, wanted, on_step)
    near = nearest(name, [*repository.names(), *VARIANTS])
    raise UsageError(f"{text!r}: no .onnx file, run, variant or model of {repository.root}{near}")


def _refuse_engine(what: str) -> UsageError:
    return UsageError(f"{what}: is a TensorRT engine; profile it on its GPU: trtexec --loadEngine=FILE --dumpProfile")


def _published(
    name: str, version: int | None, repository: Repository, wanted: Profiling
) -> tuple[Subject, ProfileOptions]:
    from resx.runtimes.onnx_reader import read_model
    from resx.runtimes.profiling.onnx_source import onnx_subject
    from resx.runtimes.profiling.openvino_source import ir_subject

    folder = repository.version_folder(name, version)
    card, title = repository.card(name, int(folder.name)), f"{name} version {folder.name}"
    if card.engine is not None:
        raise UsageError(
            f"{title}: is a TensorRT engine; profile it on its GPU: trtexec --loadEngine=... --dumpProfile"
        )
    hint = card.runtime.precision_hint if card.runtime else None
    options, path = wanted.options(card.runtime_name, hint or "f32"), folder / card.model_file
    if path.suffix != ".xml":
        return onnx_subject(read_model(path), options, title), options
    if options.runtime != "openvino":
        raise UsageError(f"--runtime {options.runtime}: {title} is OpenVINO's IR; remove the option")
    return ir_subject(path, options, title), options


def _exported(text: str, wanted: Profiling, on_step: Callable[[str], None]) -> tuple[Subject, ProfileOptions]:
    on_step("load PyTorch")
    from resx.export.sources.source import load_source
    from resx.runtimes.profiling.onnx_source import onnx_subject

    options = wanted.options()
    on_step(f"build {text}")
    source = load_source(text, weights="none", seed=0)
    on_step("write ONNX")
    with tempfile.TemporaryDirectory(prefix="resx-profile-") as folder:
        model = source.folded().grouped().write(Path(folder) / "model.onnx", "fp32", "uint8", "cpu")
    return onnx_subject(model, options, source.name), options
